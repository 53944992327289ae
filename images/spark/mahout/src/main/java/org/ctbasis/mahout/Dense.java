package org.ctbasis.mahout;

import dev.ludovic.netlib.blas.BLAS;
import org.apache.mahout.math.DenseMatrix;
import org.apache.mahout.math.Matrices;
import org.apache.mahout.math.Matrix;
import org.apache.mahout.math.TransposedMatrixView;
import org.apache.mahout.math.Vector;

/** Dense matrices in the layout that BLAS requires, and their products. */
public final class Dense {

  /** Elements of A converted to double at a time: 2 MiB, which stay in the processor's cache until the product. */
  private static final int PANEL_ELEMENTS = 1 << 18;

  /** Least rows of a panel: with fewer, adding its product to the sum takes longer than computing it. */
  private static final int MIN_PANEL_ROWS = 128;

  private Dense() {}

  /** Return the product a b. A row-major matrix is the transpose in column-major order, so BLAS computes (a b)' = b' a'. */
  public static Matrix times(Matrix a, Matrix b) {
    boolean transposeA = a instanceof TransposedMatrixView;
    boolean transposeB = b instanceof TransposedMatrixView;
    RowMajor left = rowMajor(transposeA ? Matrices.transposedView(a) : a);
    FlatMatrix right = flat(rowMajor(transposeB ? Matrices.transposedView(b) : b));
    int rows = a.rowSize();
    int cols = b.columnSize();
    double[] product = new double[Math.multiplyExact(rows, cols)];
    if (left instanceof FlatMatrix && transposeA && !transposeB && left.sameAs(right) && Kernels.isNative()) {
      gram(right, product);
    } else if (left instanceof FlatMatrix || transposeA && transposeB) {
      FlatMatrix flat = flat(left);
      multiply(
          transposeA, transposeB, rows, a.columnSize(), cols, flat.values, flat.offset, flat.stride, right, right.offset, 0,
          product, 0);
    } else if (!transposeA) {
      forEachPanel(left, (values, first, count) -> multiply(
          false, transposeB, count, left.columnSize(), cols, values, 0, left.columnSize(), right, right.offset, 0, product,
          first * cols));
    } else {
      forEachPanel(left, (values, first, count) -> multiply(
          true, false, rows, count, cols, values, 0, left.columnSize(), right, right.at(first, 0), 1, product, 0));
    }
    return new FlatMatrix(product, rows, cols);
  }

  /** Return whether no element is NaN or Inf. */
  public static boolean finite(double[] values) {
    // The sum of the magnitudes is finite only if all of them are; it may overflow even if they are.
    if (Double.isFinite(Kernels.blas().dasum(values.length, values, 1))) {
      return true;
    }
    for (double value : values) {
      if (!Double.isFinite(value)) {
        return false;
      }
    }
    return true;
  }

  private static FlatMatrix flat(RowMajor m) {
    return m instanceof FlatMatrix
        ? ((FlatMatrix) m).checked()
        : new FlatMatrix(m.packed(), m.rowSize(), m.columnSize());
  }

  /** Compute C := A B + beta C; each operand is transposed or as it is stored. */
  private static void multiply(
      boolean transposeA, boolean transposeB, int rows, int inner, int cols, double[] a, int offsetA, int strideA,
      FlatMatrix b, int offsetB, double beta, double[] c, int offsetC) {
    Kernels.blas().dgemm(
        transposeB ? "T" : "N", transposeA ? "T" : "N", cols, rows, inner, 1.0,
        b.values, offsetB, b.stride, a, offsetA, strideA, beta, c, offsetC, cols);
  }

  /** Compute X'X: BLAS computes one triangle, and the other is copied from it. */
  private static void gram(FlatMatrix x, double[] product) {
    int n = x.columnSize();
    Kernels.blas().dsyrk("L", "N", n, x.rowSize(), 1.0, x.values, x.offset, x.stride, 0.0, product, 0, n);
    for (int j = 0; j < n; j++) {
      for (int i = j + 1; i < n; i++) {
        product[i * n + j] = product[j * n + i];
      }
    }
  }

  private interface PanelConsumer {
    void accept(double[] values, int first, int count);
  }

  private static void forEachPanel(RowMajor matrix, PanelConsumer consumer) {
    int most = Math.max(1, Math.min(matrix.rowSize(), Math.max(MIN_PANEL_ROWS, PANEL_ELEMENTS / matrix.columnSize())));
    double[] values = new double[Math.multiplyExact(most, matrix.columnSize())];
    for (int first = 0; first < matrix.rowSize(); first += most) {
      int count = Math.min(most, matrix.rowSize() - first);
      matrix.widen(first, count, values);
      consumer.accept(values, first, count);
    }
  }

  /**
   * Solve X L' = Z in place. Z is rows x n without gaps, and L is column-major. Native BLAS solves it directly. Otherwise
   * it is solved in blocks of columns, where all blocks except the diagonal ones are matrix products.
   */
  public static void solve(double[] L, int n, double[] z, int rows) {
    BLAS blas = Kernels.blas();
    if (Kernels.isNative()) {
      blas.dtrsm("L", "L", "N", "N", n, rows, 1.0, L, 0, n, z, 0, n);
      return;
    }
    int width = 32;
    for (int first = 0; first < n; first += width) {
      int last = Math.min(n, first + width);
      if (first > 0) {
        blas.dgemm("N", "N", last - first, rows, first, -1.0, L, first, n, z, 0, n, 1.0, z, first, n);
      }
      for (int row = 0; row < rows; row++) {
        for (int k = first; k < last; k++) {
          double value = z[row * n + k] / L[k * n + k];
          z[row * n + k] = value;
          for (int i = k + 1; i < last; i++) {
            z[row * n + i] -= value * L[k * n + i];
          }
        }
      }
    }
  }

  /** Return the values of `m`, row by row, in a new array. */
  public static double[] packed(Matrix m) {
    return m instanceof RowMajor ? ((RowMajor) m).packed() : copied(m).values;
  }

  /** Return `m` itself if its values are in one array, otherwise a copy. */
  static RowMajor rowMajor(Matrix m) {
    if (m instanceof RowMajor) {
      return (RowMajor) m;
    }
    RowMajor omega = Omega.values(m);
    return omega != null ? omega : copied(m);
  }

  static FlatMatrix copied(Matrix m) {
    int rows = m.rowSize();
    int cols = m.columnSize();
    double[] values = new double[Math.multiplyExact(rows, cols)];
    if (m instanceof DenseMatrix) {
      double[][] backing = ((DenseMatrix) m).getBackingStructure();
      for (int i = 0; i < rows; i++) {
        System.arraycopy(backing[i], 0, values, i * cols, cols);
      }
    } else {
      for (int i = 0; i < rows; i++) {
        Vector row = m.viewRow(i);
        for (int j = 0; j < cols; j++) {
          values[i * cols + j] = row.getQuick(j);
        }
      }
    }
    return new FlatMatrix(values, rows, cols);
  }
}
