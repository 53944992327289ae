package org.apache.mahout.common;

import java.util.Random;
import java.util.function.Supplier;

/**
 * Where Mahout has its random numbers from. Replaced: upstream's class of this name, which is {@link StockRandomUtils}
 * here and does all the work, takes no seed for the numbers that an algorithm asks for, but the one of its own tests.
 */
public final class RandomUtils {

  public static final int MAX_INT_SMALLER_TWIN_PRIME = StockRandomUtils.MAX_INT_SMALLER_TWIN_PRIME;

  private static final ThreadLocal<Long> SEED = new ThreadLocal<>();

  private RandomUtils() {}

  /** Run `work`; what it draws in this thread, it draws from `seed`. */
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
