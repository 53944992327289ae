package org.apache.mahout.math;

import java.util.Arrays;
import org.ctbasis.mahout.Dense;
import org.ctbasis.mahout.FlatMatrix;
import org.ctbasis.mahout.Kernels;

/**
 * The decomposition A = L L', and z inv(L'), on plain arrays. This kernel replaces upstream's class of the same name, which
 * reads every element through two levels of index permutation. Upstream's class is compiled as
 * {@link StockCholeskyDecomposition}.
 *
 * <p>The test for a degenerate column is upstream's: a pivot of at most 1e-10 times the largest element of its column.
 * Upstream's class does the work with pivoting, which DS-SVD does not use, and with the stock kernels.
 */
public class CholeskyDecomposition {

  private static final double DEGENERATE = 1.0e-10;

  /** The last decomposition: DQR decomposes the same Y'Y again for every block. */
  private static volatile CholeskyDecomposition last;

  private final StockCholeskyDecomposition stock;
  private final int n;
  private final double[] decomposed;
  /** L in column-major order: all loops run along columns, and the JIT compiler vectorizes them. */
  private final double[] L;
  private boolean positiveDefinite = true;

  public CholeskyDecomposition(Matrix a) {
    this(a, true);
  }

  public CholeskyDecomposition(Matrix a, boolean pivot) {
    n = a.rowSize();
    if (n != a.columnSize()) {
      throw new IllegalArgumentException("Must be a Square Matrix");
    }
    if (pivot || Kernels.stock()) {
      stock = new StockCholeskyDecomposition(a, pivot);
      decomposed = null;
      L = null;
      return;
    }
    stock = null;
    // A is symmetric, so its row-major and column-major order are the same.
    decomposed = Dense.packed(a);
    CholeskyDecomposition before = last;
    if (before != null && Arrays.equals(before.decomposed, decomposed)) {
      L = before.L;
      positiveDefinite = before.positiveDefinite;
      return;
    }
    L = decomposed.clone();
    decompose();
    last = this;
  }

  /** Compute L column by column: column k minus the parts of the columns before it, over the root of its pivot. */
  private void decompose() {
    for (int k = 0; k < n; k++) {
      for (int j = 0; j < k; j++) {
        subtract(L, k * n, L[j * n + k], j, k);
        L[k * n + j] = 0;
      }
      double largest = 0;
      for (int i = k; i < n; i++) {
        largest = Math.max(largest, Math.abs(L[k * n + i]));
      }
      double pivot = L[k * n + k];
      // The negated comparison makes NaN count as degenerate.
      boolean degenerate = !(pivot > DEGENERATE * largest);
      positiveDefinite &= !degenerate;
      double root = Math.sqrt(pivot);
      for (int i = k; i < n; i++) {
        L[k * n + i] = degenerate ? 0 : L[k * n + i] / root;
      }
    }
  }

  /** Compute x[start + i] -= factor L[i, column] for all i >= `from`. */
  private void subtract(double[] x, int start, double factor, int column, int from) {
    int offset = column * n;
    for (int i = from; i < n; i++) {
      x[start + i] -= factor * L[offset + i];
    }
  }

  public boolean isPositiveDefinite() {
    return stock == null ? positiveDefinite : stock.isPositiveDefinite();
  }

  public Matrix getL() {
    return stock == null ? Matrices.transposedView(new FlatMatrix(L.clone(), n, n)) : stock.getL();
  }

  public PivotedMatrix getPermutedL() {
    return stock == null ? new PivotedMatrix(getL()) : stock.getPermutedL();
  }

  /** Return the permutation of rows and columns that was applied to L. */
  public int[] getPivot() {
    return getPermutedL().getRowPivot();
  }

  public int[] getInversePivot() {
    return getPermutedL().getInverseRowPivot();
  }

  /** Return inv(L) z; a degenerate column gives zeros. */
  public Matrix solveLeft(Matrix z) {
    if (stock != null) {
      return stock.solveLeft(z);
    }
    return Matrices.transposedView(solveRight(Matrices.transposedView(z)));
  }

  /** Return z inv(L'); a degenerate column gives zeros. */
  public Matrix solveRight(Matrix z) {
    if (stock != null) {
      return stock.solveRight(z);
    }
    int rows = z.rowSize();
    double[] x = Dense.packed(z);
    if (positiveDefinite) {
      Dense.solve(L, n, x, rows);
    } else {
      for (int row = 0; row < rows; row++) {
        substitute(x, row * n);
      }
    }
    if (!Dense.finite(x)) {
      throw new IllegalStateException("Invalid value found in z inv(L') (should not be possible)");
    }
    return new FlatMatrix(x, rows, n);
  }

  /** Solve L y = x in place for the n elements of x from `start` on, which are one row of z inv(L'). */
  private void substitute(double[] x, int start) {
    for (int k = 0; k < n; k++) {
      double pivot = L[k * n + k];
      x[start + k] = pivot == 0 ? 0 : x[start + k] / pivot;
      subtract(x, start, x[start + k], k, k + 1);
    }
  }
}
