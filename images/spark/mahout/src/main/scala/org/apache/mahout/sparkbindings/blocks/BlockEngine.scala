package org.apache.mahout.sparkbindings.blocks

import org.apache.mahout.math.{Matrix, Vector}
import org.apache.mahout.math.drm._
import org.apache.mahout.math.drm.logical._
import org.apache.mahout.math.indexeddataset.{BiDictionary, IndexedDataset, Schema}
import org.apache.mahout.sparkbindings.SparkEngine
import org.apache.mahout.sparkbindings.blas.{AinCoreB, AtB, MapBlock}
import org.apache.mahout.sparkbindings.drm.{CheckpointedDrmSpark, DrmRddInput}

import java.util.concurrent.atomic.AtomicReference

import scala.reflect.ClassTag

/**
 * Mahout's Spark engine for tall matrices that are stored in blocks. It runs Mahout's own physical operators and delegates
 * everything else to `SparkEngine`. It differs from `SparkEngine` in four decisions:
 *
 *  - A checkpointed DRM keeps its blocks. `SparkEngine` converts them to rows, and the rows back to blocks, element by
 *    element, in every pass.
 *  - A B, with A tall and B small, is A times a broadcast matrix. `SparkEngine` runs it as A (B')', which moves each block
 *    of A through a shuffle. The product then has another partitioning than A, so A' Q moves each row of A and Q through
 *    another shuffle. A product with a broadcast matrix has the partitioning of A, which Mahout's optimizer uses.
 *  - Y and Q, which are computed from the blocks one by one, are computed again where they are used: a product by BLAS
 *    costs less than memory of the size of A or more. If Y is much narrower than A, it is kept until the next one.
 *  - The sums of A' A and A' B are added up in each executor before the shuffle, by [[ExecutorSums]].
 *
 * The object is in Mahout's package because the extension points are visible only there.
 */
object BlockEngine extends DistributedEngine {

  /** 512 MB of doubles: a driver can collect them, and an executor can hold them beside its blocks. */
  private val small = 1L << 26

  override def optimizerRewrite[K: ClassTag](action: DrmLike[K]): DrmLike[K] =
    super.optimizerRewrite(broadcastSmall(action))

  private def broadcastSmall[K](action: DrmLike[K]): DrmLike[K] = action match {
    case OpABAnyKey(OpAtAnyKey(_), _) => action
    case OpABAnyKey(OpAt(_), _) => action
    case OpABAnyKey(a, b) if b.keyClassTag == ClassTag.Int && b.nrow * b.ncol <= small =>
      OpTimesRightMatrix(a, b.checkpoint(CacheHint.NONE).collect)
    case _ => action
  }

  override def toPhysical[K: ClassTag](plan: DrmLike[K], hint: CacheHint.CacheHint): CheckpointedDrm[K] = plan match {
    case _: OpAtA[_] | _: OpAtB[_] => checkpoint(plan, hint).cache()
    case op: OpMapBlock[_, K] if narrow(op, op.A) => cacheUntilNext(checkpoint(plan, hint))
    case op: OpTimesRightMatrix[K] if narrow(op, op.A) => cacheUntilNext(checkpoint(plan, hint))
    case _ => checkpoint(plan, CacheHint.NONE)
  }

  private def checkpoint[K: ClassTag](plan: DrmLike[K], hint: CacheHint.CacheHint): BlockDrm[K] =
    new BlockDrm(physical(plan), plan.nrow, plan.ncol, hint, plan.partitioningTag)

  private def narrow(product: DrmLike[_], of: DrmLike[_]): Boolean = product.ncol * 4L <= of.ncol

  private val kept = new AtomicReference[CheckpointedDrmSpark[_]]

  private def cacheUntilNext[K](drm: BlockDrm[K]): CheckpointedDrm[K] = {
    Option(kept.getAndSet(drm)).foreach(_.uncache())
    drm.cache()
  }

  private def physical[K](plan: DrmLike[K]): DrmRddInput[K] = plan match {
    case drm: CheckpointedDrmSpark[K] => drm.rddInput
    case op: OpMapBlock[_, K] => MapBlock.exec(physical(op.A), op)
    case op: OpTimesRightMatrix[K] => AinCoreB.rightMultiply(op, physical(op.A))
    case op: OpAtA[a] =>
      ExecutorSums.timesItself(op, physical(op.A))(op.A.keyClassTag).asInstanceOf[DrmRddInput[K]]
    case op: OpAtB[a] if op.A.partitioningTag == op.B.partitioningTag =>
      ExecutorSums.times(op, physical(op.A), physical(op.B))(op.A.keyClassTag).asInstanceOf[DrmRddInput[K]]
    case op: OpAtB[a] =>
      AtB.atb(op, physical(op.A), physical(op.B))(op.A.keyClassTag).asInstanceOf[DrmRddInput[K]]
    case op => SparkEngine.toPhysical(op, CacheHint.NONE)(op.keyClassTag).asInstanceOf[CheckpointedDrmSpark[K]].rddInput
  }

  override def colSums[K](drm: CheckpointedDrm[K]): Vector = SparkEngine.colSums(drm)

  override def colMeans[K](drm: CheckpointedDrm[K]): Vector = SparkEngine.colMeans(drm)

  override def numNonZeroElementsPerColumn[K](drm: CheckpointedDrm[K]): Vector =
    SparkEngine.numNonZeroElementsPerColumn(drm)

  override def norm[K](drm: CheckpointedDrm[K]): Double = SparkEngine.norm(drm)

  override def allreduceBlock[K](drm: CheckpointedDrm[K], map: BlockMapFunc2[K], reduce: BlockReduceFunc): Matrix =
    SparkEngine.allreduceBlock(drm, map, reduce)

  override def drmBroadcast(v: Vector)(implicit dc: DistributedContext): BCast[Vector] = SparkEngine.drmBroadcast(v)

  override def drmBroadcast(m: Matrix)(implicit dc: DistributedContext): BCast[Matrix] = SparkEngine.drmBroadcast(m)

  override def drmDfsRead(path: String, parMin: Int)(implicit sc: DistributedContext): CheckpointedDrm[_] =
    SparkEngine.drmDfsRead(path, parMin)

  override def drmParallelizeWithRowIndices(m: Matrix, numPartitions: Int)(
      implicit sc: DistributedContext): CheckpointedDrm[Int] = SparkEngine.drmParallelizeWithRowIndices(m, numPartitions)

  override def drmParallelizeWithRowLabels(m: Matrix, numPartitions: Int)(
      implicit sc: DistributedContext): CheckpointedDrm[String] =
    SparkEngine.drmParallelizeWithRowLabels(m, numPartitions)

  override def drmParallelizeEmpty(nrow: Int, ncol: Int, numPartitions: Int)(
      implicit sc: DistributedContext): CheckpointedDrm[Int] = SparkEngine.drmParallelizeEmpty(nrow, ncol, numPartitions)

  override def drmParallelizeEmptyLong(nrow: Long, ncol: Int, numPartitions: Int)(
      implicit sc: DistributedContext): CheckpointedDrm[Long] =
    SparkEngine.drmParallelizeEmptyLong(nrow, ncol, numPartitions)

  override def drm2IntKeyed[K](drm: DrmLike[K], computeMap: Boolean): (DrmLike[Int], Option[DrmLike[K]]) =
    SparkEngine.drm2IntKeyed(drm, computeMap)

  override def drmSampleRows[K](drm: DrmLike[K], fraction: Double, replacement: Boolean): DrmLike[K] =
    SparkEngine.drmSampleRows(drm, fraction, replacement)

  override def drmSampleKRows[K](drm: DrmLike[K], numSamples: Int, replacement: Boolean): Matrix =
    SparkEngine.drmSampleKRows(drm, numSamples, replacement)

  override def indexedDatasetDFSRead(src: String, schema: Schema, existingRowIDs: Option[BiDictionary])(
      implicit sc: DistributedContext): IndexedDataset = SparkEngine.indexedDatasetDFSRead(src, schema, existingRowIDs)

  override def indexedDatasetDFSReadElements(src: String, schema: Schema, existingRowIDs: Option[BiDictionary])(
      implicit sc: DistributedContext): IndexedDataset =
    SparkEngine.indexedDatasetDFSReadElements(src, schema, existingRowIDs)
}
