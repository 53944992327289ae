package org.apache.mahout.sparkbindings.blocks

import org.apache.mahout.math.Matrix
import org.apache.mahout.math.drm.{CacheHint, DistributedContext}
import org.apache.mahout.sparkbindings.SparkDistributedContext
import org.apache.mahout.sparkbindings.drm.{CheckpointedDrmSpark, DrmRddInput}
import org.apache.spark.rdd.RDD

import scala.reflect.ClassTag

/** A DRM whose expressions are run by [[BlockEngine]]. */
class BlockDrm[K: ClassTag](
    input: DrmRddInput[K], rows: Long, cols: Int, hint: CacheHint.CacheHint, tag: Long)
  extends CheckpointedDrmSpark[K](input, rows, cols, hint, tag) {

  override val context: DistributedContext = new SparkDistributedContext(input.sparkContext) {
    override val engine = BlockEngine
  }
}

object BlockDrm {

  /** Return a DRM of whole blocks, (row keys, dense matrix), for Mahout's own engine (`stock`) or for [[BlockEngine]]. */
  def of(blocks: RDD[(Array[Int], Matrix)], rows: Long, cols: Int, stock: Boolean): CheckpointedDrmSpark[Int] = {
    val input = new DrmRddInput[Int](Right(blocks.asInstanceOf[RDD[(Array[Int], _ <: Matrix)]]))
    val hint = CacheHint.MEMORY_AND_DISK
    val drm =
      if (stock) new CheckpointedDrmSpark[Int](input, rows, cols, hint)
      else new BlockDrm[Int](input, rows, cols, hint, tag = System.nanoTime)
    drm.cache()
  }

  /** Return the blocks of a DRM. */
  def blocks(drm: CheckpointedDrmSpark[Int]): RDD[(Array[Int], Matrix)] =
    drm.rddInput.asBlockified(drm.ncol).asInstanceOf[RDD[(Array[Int], Matrix)]]
}
