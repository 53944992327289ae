package org.apache.mahout.viennacl.opencl

import org.apache.mahout.math.Matrix
import org.apache.mahout.math.scalabindings.MMBinaryFunc
import org.apache.mahout.viennacl.openmp.OMPMMul

/**
 * `OMPMMul` again, on no GPU: this is the name that Mahout looks for first, anew for each product, and to find that no
 * class has it takes a search of every jar of Spark's.
 */
object GPUMMul extends MMBinaryFunc {

  override def apply(a: Matrix, b: Matrix, r: Option[Matrix]): Matrix = OMPMMul(a, b, r)
}
