package org.ctbasis.mahout;

import java.lang.reflect.Field;
import java.lang.reflect.Method;
import org.apache.mahout.math.Matrix;

/**
 * The random matrix of DS-SVD. In Mahout it is a function of row, column and a seed, which computes a hash of eight bytes
 * for each element, again for every block. This class keeps the values of the last matrix, since a run has one seed.
 */
final class Omega {

  private static final String GENERATOR = "uniformSymmetricGenerator";

  private static volatile Omega last;

  private final int seed;
  private final FlatMatrix values;

  private Omega(int seed, FlatMatrix values) {
    this.seed = seed;
    this.values = values;
  }

  /** Return the values of `m`, computed once, if it is a `Matrices.symmetricUniformView`; otherwise null. */
  static FlatMatrix values(Matrix m) {
    Integer seed = seed(m);
    if (seed == null) {
      return null;
    }
    Omega omega = last;
    if (omega == null || omega.seed != seed || omega.values.rowSize() != m.rowSize()
        || omega.values.columnSize() != m.columnSize()) {
      omega = new Omega(seed, Dense.copied(m));
      last = omega;
    }
    return omega.values;
  }

  /** Return the seed of Mahout's anonymous generator class in `m`; null if `m` has no such generator. */
  private static Integer seed(Matrix m) {
    if (!m.getClass().getSimpleName().equals("FunctionalMatrixView")) {
      return null;
    }
    try {
      Object generator = field(m, "gf");
      Method maker = generator.getClass().getEnclosingMethod();
      return maker != null && maker.getName().equals(GENERATOR) ? (Integer) field(generator, "val$seed") : null;
    } catch (ReflectiveOperationException other) {
      return null;
    }
  }

  private static Object field(Object of, String name) throws ReflectiveOperationException {
    Field field = of.getClass().getDeclaredField(name);
    field.setAccessible(true);
    return field.get(of);
  }
}
