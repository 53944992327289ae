package org.apache.mahout.common;

import java.util.Random;
import java.util.function.Supplier;

/**
 * Mahout's source of random numbers. This class replaces upstream's class of the same name, which accepts no seed for the
 * numbers that an algorithm draws, except the fixed one of its own tests. Upstream's class is compiled as
 * {@link StockRandomUtils}, and this class delegates to it.
 */
public final class RandomUtils {

  public static final int MAX_INT_SMALLER_TWIN_PRIME = StockRandomUtils.MAX_INT_SMALLER_TWIN_PRIME;

  private static final ThreadLocal<Long> SEED = new ThreadLocal<>();

  private RandomUtils() {}

  /** Run `work`, whose random numbers in this thread come from a generator with `seed`. */
  public static <T> T seeded(long seed, Supplier<T> work) {
    SEED.set(seed);
    try {
      return work.get();
    } finally {
      SEED.remove();
    }
  }

  public static void useTestSeed() {
    StockRandomUtils.useTestSeed();
  }

  public static RandomWrapper getRandom() {
    Long seed = SEED.get();
    return seed == null ? StockRandomUtils.getRandom() : (RandomWrapper) StockRandomUtils.getRandom(seed);
  }

  public static Random getRandom(long seed) {
    return StockRandomUtils.getRandom(seed);
  }

  public static int hashDouble(double value) {
    return StockRandomUtils.hashDouble(value);
  }

  public static int hashFloat(float value) {
    return StockRandomUtils.hashFloat(value);
  }

  public static int nextTwinPrime(int n) {
    return StockRandomUtils.nextTwinPrime(n);
  }
}
