package org.apache.mahout.viennacl.openmp

import org.apache.mahout.math.{DiagonalMatrix, Matrix}
import org.apache.mahout.math.scalabindings.{MMBinaryFunc, MMul}
import org.ctbasis.mahout.{Dense, Kernels}

/**
 * In-core `%*%` by BLAS. Mahout looks up this class by its name, and falls back to `MMul`, a loop in the JVM, if it does not
 * exist. Upstream's class of this name calls ViennaCL, whose native libraries are not published.
 */
object OMPMMul extends MMBinaryFunc {

  override def apply(a: Matrix, b: Matrix, r: Option[Matrix]): Matrix =
    if (Kernels.stock || !dense(a) || !dense(b)) {
      MMul(a, b, r)
    } else {
      require(a.columnSize == b.rowSize, "Incompatible matrix sizes in matrix multiplication.")
      val product = Dense.times(a, b)
      r.fold(product)(_.assign(product))
    }

  private def dense(m: Matrix): Boolean = m.getFlavor.isDense && !m.isInstanceOf[DiagonalMatrix]
}
