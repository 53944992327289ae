package org.ctbasis.mahout;

import java.lang.reflect.Field;
import java.lang.reflect.Method;
import org.apache.mahout.math.Matrix;

/**
 * DS-SVD's random matrix, which Mahout has as a function of row, column and a seed, made anew for every block: a hash of
 * eight bytes each time an element is asked for. The values of the last one are kept, as one seed serves a whole run.
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

  /** The values of `m`, made once, where it is `Matrices.symmetricUniformView`; null where it is another matrix. */
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

  /** What Mahout's anonymous generator was made with; null where `m` has none. */
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
