package org.apache.mahout.viennacl.opencl

import org.apache.mahout.math.Matrix
import org.apache.mahout.math.scalabindings.MMBinaryFunc
import org.apache.mahout.viennacl.openmp.OMPMMul

/**
 * The same as `OMPMMul`; it uses no GPU. Mahout looks for a class of this name first, for each product. Without this
 * class, each lookup would search every jar of Spark.
 */
object GPUMMul extends MMBinaryFunc {

  override def apply(a: Matrix, b: Matrix, r: Option[Matrix]): Matrix = OMPMMul(a, b, r)
}
