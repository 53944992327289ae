package org.ctbasis.mahout;

import java.util.HashSet;
import java.util.Set;
import java.util.stream.Collectors;
import java.util.stream.IntStream;
import org.apache.mahout.common.RandomUtils;
import org.apache.mahout.math.DenseMatrix;
import org.apache.mahout.math.Matrix;
import org.apache.mahout.math.Vector;
import org.apache.mahout.math.decompositions.DSSVD$;
import org.apache.mahout.math.drm.CacheHint;
import org.apache.mahout.math.drm.CheckpointedDrm;
import org.apache.mahout.math.drm.DrmLike;
import org.apache.mahout.sparkbindings.blocks.BlockDrm;
import org.apache.mahout.sparkbindings.blocks.ExecutorSums;
import org.apache.mahout.sparkbindings.drm.CheckpointedDrmSpark;
import org.apache.spark.api.java.JavaRDD;
import org.apache.spark.api.java.JavaSparkContext;
import org.apache.spark.rdd.RDD;
import scala.Tuple2;
import scala.Tuple3;
import scala.collection.JavaConverters;

/** One run of Mahout's DS-SVD on row blocks that are received as bytes; U is returned as bytes, block by block. */
public final class DsSvd implements AutoCloseable {

  /** Property: largest number of columns at which Mahout forms A'A row by row in a JVM loop, and not by blocks with %*%. */
  private static final String ROW_WISE_GRAM = "mahout.math.AtA.maxInMemNCol";
  private static final String ROW_WISE_GRAM_AS_STARTED = System.getProperty(ROW_WISE_GRAM);

  private final JavaSparkContext context;
  private final boolean stock;
  private int blocks = -1;
  private DrmLike<Object> tallU;
  private byte[] s;
  private byte[] V;

  /**
   * @param context context of the Spark application
   * @param kernels `stock` for Mahout's own kernels and plan, `java` for the replaced kernels without native BLAS
   */
  public DsSvd(JavaSparkContext context, String kernels) {
    this(context, kernels, null);
  }

  /**
   * @param context context of the Spark application
   * @param kernels as above
   * @param groups number of tasks that add up the products of the blocks, the same in all products; null for one task for
   *     each partition
   */
  public DsSvd(JavaSparkContext context, String kernels, Integer groups) {
    this.context = context;
    context.setLocalProperty(ExecutorSums.Groups(), groups == null ? null : groups.toString());
    stock = kernels.equals(Kernels.STOCK);
    Kernels.choose(context.sc(), kernels);
    if (ROW_WISE_GRAM_AS_STARTED == null) {
      if (stock) {
        System.clearProperty(ROW_WISE_GRAM);
      } else {
        System.setProperty(ROW_WISE_GRAM, "1");
      }
    }
  }

  /**
   * Factor A, m x n.
   *
   * @param blocks row blocks of A in the format of {@link Blocks}
   * @param seed seed of the generator from which Mahout draws the seed of Omega
   * @throws RankDeficientException Y has fewer than k + p independent columns
   */
  public void run(JavaRDD<byte[]> blocks, long m, int n, int k, int p, int q, long seed) {
    this.blocks = blocks.id();
    boolean useStock = stock;
    CheckpointedDrmSpark<Object> A = BlockDrm.of(
        blocks.mapPartitions(parts -> Blocks.decode(parts, useStock)).rdd(), m, n, stock);
    Tuple3<DrmLike<Object>, DrmLike<Object>, Vector> factors;
    try {
      factors = RandomUtils.seeded(
          seed, () -> DSSVD$.MODULE$.dssvd(A, k, p, q, CacheHint.MEMORY_AND_DISK()));
    } catch (IllegalArgumentException error) {
      if (String.valueOf(error.getMessage()).contains("rank-deficient")) {
        throw new RankDeficientException(error);
      }
      throw error;
    }
    tallU = factors._1();
    V = Blocks.encode(0, collect(factors._2()), Double.BYTES);
    s = Blocks.encode(0, row(factors._3()), Double.BYTES);
  }

  private static Matrix collect(DrmLike<?> drm) {
    CheckpointedDrm<?> checkpoint = drm.checkpoint(CacheHint.NONE());
    return checkpoint.collect();
  }

  private static Matrix row(Vector vector) {
    Matrix row = new DenseMatrix(1, vector.size());
    return row.assignRow(0, vector);
  }

  /** Return the singular values in descending order, one block of 1 x k. */
  public byte[] s() {
    return s;
  }

  /** Return the right singular vectors, one block of n x k. */
  public byte[] V() {
    return V;
  }

  /**
   * Return the left singular vectors, one block for each run of consecutive rows; Spark computes them when they are used.
   *
   * @param width bytes per value in the store that receives them: 4 or 8
   */
  public JavaRDD<byte[]> U(int width) {
    CheckpointedDrmSpark<Object> U = (CheckpointedDrmSpark<Object>) tallU.checkpoint(CacheHint.NONE());
    JavaRDD<Tuple2<int[], Matrix>> blocks = ExecutorSums.grouped(BlockDrm.blocks(U)).toJavaRDD();
    return blocks.flatMap(block -> Blocks.encode(block._1(), block._2(), width).iterator());
  }

  /** Return the name of the kernels in use, with the BLAS that the executors found. */
  public String kernels() {
    if (stock) {
      return "its own kernels";
    }
    int cores = context.defaultParallelism();
    return context.parallelize(IntStream.range(0, cores).boxed().collect(Collectors.toList()), cores)
        .map(core -> Kernels.blasName()).collect().stream()
        .distinct().sorted().collect(Collectors.joining(", ", "replaced kernels (", ")"));
  }

  /** Remove the RDDs of this run from the executors' memory, and none of the other runs that are under way. */
  @Override
  public void close() {
    context.getPersistentRDDs().forEach((id, rdd) -> {
      if (descends(rdd.rdd(), new HashSet<>())) {
        rdd.unpersist();
      }
    });
  }

  private boolean descends(RDD<?> rdd, Set<Integer> seen) {
    if (rdd.id() == blocks) {
      return true;
    }
    return seen.add(rdd.id())
        && JavaConverters.seqAsJavaList(rdd.dependencies()).stream().anyMatch(parent -> descends(parent.rdd(), seen));
  }
}
