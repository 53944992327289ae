package org.ctbasis.mahout;

import dev.ludovic.netlib.blas.BLAS;
import dev.ludovic.netlib.blas.JavaBLAS;
import dev.ludovic.netlib.blas.NativeBLAS;
import java.util.logging.Level;
import java.util.logging.Logger;
import org.apache.spark.SparkContext;
import org.apache.spark.TaskContext;

/** Which in-core kernels Mahout computes with: its own, or BLAS. Chosen for a job, known to all its tasks. */
public final class Kernels {

  /** Mahout's own. */
  static final String STOCK = "stock";
  /** BLAS in Java, even where a native one is installed. */
  static final String JAVA = "java";

  private static final String CHOICE = "ctbasis.mahout.kernels";
  private static final String NATIVE_LIBRARY = "dev.ludovic.netlib.blas.nativeLib";

  private static volatile String onDriver = "";

  private Kernels() {}

  /** Choose the kernels of everything that `context` runs from now on. */
  static void choose(SparkContext context, String kernels) {
    onDriver = kernels;
    context.setLocalProperty(CHOICE, kernels);
  }

  private static String chosen() {
    TaskContext task = TaskContext.get();
    return task == null ? onDriver : task.getLocalProperty(CHOICE);
  }

  /** Whether the caller, a task or the driver, is to use Mahout's own kernels. */
  public static boolean stock() {
    return STOCK.equals(chosen());
  }

  /** The BLAS of the caller: OpenBLAS where it is installed, else netlib's vectorized one, else its plain one. */
  public static BLAS blas() {
    return JAVA.equals(chosen()) ? JavaBLAS.getInstance() : Holder.BLAS_IN_USE;
  }

  /** Whether all of {@link #blas()} is fast; in Java it is the products alone. */
  static boolean isNative() {
    return blas() instanceof NativeBLAS;
  }

  /** The name of {@link #blas()} for people. */
  public static String blasName() {
    return isNative() ? System.getProperty(NATIVE_LIBRARY) : blas().getClass().getSimpleName();
  }

  private static final class Holder {
    static final BLAS BLAS_IN_USE = find();

    private static BLAS find() {
      // netlib's own default is libblas.so.3, which may be the reference BLAS: slower than its vectorized Java.
      if (System.getProperty(NATIVE_LIBRARY) == null) {
        System.setProperty(NATIVE_LIBRARY, "libopenblas.so.0");
      }
      // Which one it is is reported; that the others are absent is no warning.
      Logger.getLogger("dev.ludovic.netlib").setLevel(Level.SEVERE);
      try {
        return NativeBLAS.getInstance();
      } catch (LinkageError | RuntimeException absent) {
        return JavaBLAS.getInstance();
      }
    }
  }
}
