package org.ctbasis.mahout;

import dev.ludovic.netlib.blas.BLAS;
import dev.ludovic.netlib.blas.JavaBLAS;
import dev.ludovic.netlib.blas.NativeBLAS;
import java.util.logging.Level;
import java.util.logging.Logger;
import org.apache.spark.SparkContext;
import org.apache.spark.TaskContext;

/** The choice of in-core kernels: Mahout's own, or BLAS. It is made for a job, and all tasks of the job know it. */
public final class Kernels {

  /** Mahout's own kernels. */
  static final String STOCK = "stock";
  /** BLAS in Java, even if a native BLAS is installed. */
  static final String JAVA = "java";

  private static final String CHOICE = "ctbasis.mahout.kernels";
  private static final String NATIVE_LIBRARY = "dev.ludovic.netlib.blas.nativeLib";

  private static volatile String onDriver = "";

  private Kernels() {}

  /** Choose the kernels for all jobs that this thread runs in `context` from now on. */
  static void choose(SparkContext context, String kernels) {
    onDriver = kernels;
    context.setLocalProperty(CHOICE, kernels);
  }

  private static String chosen() {
    TaskContext task = TaskContext.get();
    return task == null ? onDriver : task.getLocalProperty(CHOICE);
  }

  /** Return whether the caller, a task or the driver, has to use Mahout's own kernels. */
  public static boolean stock() {
    return STOCK.equals(chosen());
  }

  /** Return the BLAS of the caller: OpenBLAS if installed, otherwise netlib's vectorized or plain Java BLAS. */
  public static BLAS blas() {
    return JAVA.equals(chosen()) ? JavaBLAS.getInstance() : Holder.BLAS_IN_USE;
  }

  /** Return whether {@link #blas()} is native, so that all of its routines are fast; in Java only the products are. */
  static boolean isNative() {
    return blas() instanceof NativeBLAS;
  }

  /** Return the name of {@link #blas()} for the report. */
  public static String blasName() {
    return isNative() ? System.getProperty(NATIVE_LIBRARY) : blas().getClass().getSimpleName();
  }

  private static final class Holder {
    static final BLAS BLAS_IN_USE = find();

    private static BLAS find() {
      // netlib's default is libblas.so.3, which may be the reference BLAS, and that is slower than vectorized Java.
      if (System.getProperty(NATIVE_LIBRARY) == null) {
        System.setProperty(NATIVE_LIBRARY, "libopenblas.so.0");
      }
      // The report names the BLAS in use, so netlib's warnings about the others are not needed.
      Logger.getLogger("dev.ludovic.netlib").setLevel(Level.SEVERE);
      try {
        return NativeBLAS.getInstance();
      } catch (LinkageError | RuntimeException absent) {
        return JavaBLAS.getInstance();
      }
    }
  }
}
