package org.apache.mahout.sparkbindings.blocks

import org.apache.mahout.math.Matrix
import org.apache.mahout.math.drm.logical.{OpAtA, OpAtB}
import org.apache.mahout.sparkbindings.BlockifiedDrmRdd
import org.apache.mahout.sparkbindings.blas.{AtA, AtB}
import org.apache.mahout.sparkbindings.drm.DrmRddInput
import org.apache.spark.SparkContext
import org.apache.spark.rdd.{PartitionCoalescer, PartitionGroup, RDD}

import scala.reflect.ClassTag

/**
 * The combiner of the products A'A and A'B: one task for each core of the executors adds up the products of its blocks
 * before anything is shuffled. Its traffic is executors x n (k + p) numbers, if an executor has one core, for any number of
 * blocks and partitions.
 *
 * The products are Mahout's own operators. They add up the products of a partition before the shuffle. This object only
 * joins adjacent partitions to one, without moving them: the task that computes a group first keeps its partitions of A in
 * the memory of its executor, and Spark runs the task of this group there in the next products. Partitions stay small, so
 * that Spark evicts A in small parts where memory is short.
 *
 * The groups depend on the settings of the application and not on where a task runs, so a product that is computed again
 * after the loss of an executor is the same.
 */
object ExecutorSums {

  /** Local property of Spark: the number of groups. */
  val Groups = "ctbasis.mahout.groups"

  /** Bytes of A'B that one task of the shuffle adds up; there are as many tasks, but not more than groups. */
  private val PieceBytes = 1L << 20

  /** Return A'A. */
  def timesItself[K: ClassTag](op: OpAtA[K], a: DrmRddInput[K]): DrmRddInput[Int] =
    AtA.at_a(op, new DrmRddInput[K](Right(grouped(a.asBlockified(op.A.ncol)))))

  /**
   * Return A'B for an A and a B with the same partitions.
   *
   * `AtB.atb` derives the number of partitions of the product from the size of the partitions of A. For a tall A it is 1, so
   * one task would receive the sums of all groups. This function calls the second half of `AtB.atb` with its own number.
   */
  def times[K: ClassTag](op: OpAtB[K], a: DrmRddInput[K], b: DrmRddInput[K]): DrmRddInput[Int] = {
    val pairs = blocks(a, op.A.ncol).zip(blocks(b, op.B.ncol)).map { case ((_, blockA), (_, blockB)) => blockA -> blockB }
    val rows = Math.toIntExact(op.nrow)
    val most = groups(pairs.sparkContext, pairs.getNumPartitions) min rows
    val pieces = op.nrow * op.ncol * java.lang.Double.BYTES / PieceBytes min most max 1
    new DrmRddInput[Int](Right(AtB.computeAtBZipped3[K](grouped(pairs), rows, rows, op.ncol, pieces.toInt)
      .asInstanceOf[BlockifiedDrmRdd[Int]]))
  }

  private def blocks[K](input: DrmRddInput[K], cols: Int): RDD[(Array[K], Matrix)] =
    input.asBlockified(cols).asInstanceOf[RDD[(Array[K], Matrix)]]

  private def groups(context: SparkContext, partitions: Int): Int =
    Option(context.getLocalProperty(Groups)).fold(partitions)(_.toInt min partitions)

  /** Return `rdd` with groups of adjacent partitions as its partitions. */
  def grouped[T](rdd: RDD[T]): RDD[T] = {
    val partitions = rdd.getNumPartitions
    val count = groups(rdd.sparkContext, partitions)
    if (count == partitions) rdd else rdd.coalesce(count, shuffle = false, Some(Adjacent))
  }

  /** Groups of adjacent partitions, whose numbers differ by at most one. */
  private object Adjacent extends PartitionCoalescer with Serializable {
    override def coalesce(most: Int, parent: RDD[_]): Array[PartitionGroup] = {
      val all = parent.partitions
      Array.tabulate(most) { index =>
        val group = new PartitionGroup()
        group.partitions ++= all.slice(first(index, most, all.length), first(index + 1, most, all.length))
        group
      }
    }

    private def first(index: Int, groups: Int, partitions: Int): Int = (index.toLong * partitions / groups).toInt
  }
}
