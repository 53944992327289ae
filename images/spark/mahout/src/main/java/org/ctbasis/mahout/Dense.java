package org.ctbasis.mahout;

import org.apache.mahout.math.DenseMatrix;
import org.apache.mahout.math.Matrices;
import org.apache.mahout.math.Matrix;
import org.apache.mahout.math.TransposedMatrixView;
import org.apache.mahout.math.Vector;

/** Dense matrices as BLAS wants them: one flat array. */
public final class Dense {

  private Dense() {}

  /** The product a b. Row-major is column-major transposed, so BLAS is asked for (a b)' = b' a'. */
  public static Matrix times(Matrix a, Matrix b) {
    int rows = a.rowSize();
    int inner = a.columnSize();
    int cols = b.columnSize();
    double[] product = new double[Math.multiplyExact(rows, cols)];
    Kernels.blas().dgemm(
        turn(b), turn(a), cols, rows, inner, 1.0,
        rowMajor(stored(b)), stored(b).columnSize(), rowMajor(stored(a)), stored(a).columnSize(), 0.0, product, cols);
    return matrix(product, rows, cols);
  }

  private static String turn(Matrix m) {
    return m instanceof TransposedMatrixView ? "T" : "N";
  }

  private static Matrix stored(Matrix m) {
    return m instanceof TransposedMatrixView ? Matrices.transposedView(m) : m;
  }

  /** The values of `m`, row by row, in a new array. */
  public static double[] rowMajor(Matrix m) {
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
    return values;
  }

  /** A matrix of the row-major `values`. */
  public static Matrix matrix(double[] values, int rows, int cols) {
    double[][] backing = new double[rows][cols];
    for (int i = 0; i < rows; i++) {
      System.arraycopy(values, i * cols, backing[i], 0, cols);
    }
    return new DenseMatrix(backing, true);
  }
}
