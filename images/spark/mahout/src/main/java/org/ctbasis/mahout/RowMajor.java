package org.ctbasis.mahout;

import java.util.Arrays;
import org.apache.mahout.math.AbstractMatrix;
import org.apache.mahout.math.Matrix;
import org.apache.mahout.math.Vector;
import org.apache.mahout.math.flavor.MatrixFlavor;

/**
 * A dense matrix whose values lie row by row in one array, as BLAS takes them; Mahout's own DenseMatrix is an array of
 * rows. A part of one is one, on the same array.
 */
abstract class RowMajor extends AbstractMatrix {

  /** Where the first value is. */
  final int offset;
  /** From a value to the one below it. */
  final int stride;

  RowMajor(int rows, int columns, int offset, int stride) {
    super(rows, columns);
    this.offset = offset;
    this.stride = stride;
  }

  abstract RowMajor part(int rows, int columns, int offset);

  /** Put `count` rows, from `first` on, into `into` as double, without gaps. */
  abstract void widen(int first, int count, double[] into);

  /** The array that the values lie in. */
  abstract Object array();

  final int at(int row, int column) {
    return offset + row * stride + column;
  }

  /** The values in an array of their own, without gaps. */
  final double[] packed() {
    double[] values = new double[Math.multiplyExact(rows, columns)];
    widen(0, rows, values);
    return values;
  }

  final boolean sameAs(RowMajor other) {
    return array() == other.array() && offset == other.offset && stride == other.stride && rows == other.rows
        && columns == other.columns;
  }

  @Override
  public Matrix viewPart(int rowOffset, int rowsRequested, int columnOffset, int columnsRequested) {
    if (rowOffset < 0 || columnOffset < 0 || rowOffset + rowsRequested > rows
        || columnOffset + columnsRequested > columns) {
      // Throws what Mahout throws.
      return super.viewPart(rowOffset, rowsRequested, columnOffset, columnsRequested);
    }
    return part(rowsRequested, columnsRequested, at(rowOffset, columnOffset));
  }

  @Override
  public Matrix viewPart(int[] from, int[] size) {
    return viewPart(from[ROW], size[ROW], from[COL], size[COL]);
  }

  @Override
  public Matrix assignColumn(int column, Vector other) {
    viewColumn(column).assign(other);
    return this;
  }

  @Override
  public Matrix assignRow(int row, Vector other) {
    viewRow(row).assign(other);
    return this;
  }

  @Override
  public Matrix like() {
    return like(rows, columns);
  }

  @Override
  public Matrix like(int rows, int columns) {
    return new FlatMatrix(new double[Math.multiplyExact(rows, columns)], rows, columns);
  }

  /** A copy, as every clone of a matrix is in Mahout. */
  @Override
  public Matrix clone() {
    return new FlatMatrix(packed(), rows, columns);
  }

  @Override
  public MatrixFlavor getFlavor() {
    return MatrixFlavor.DENSELIKE;
  }

  @Override
  public String toString() {
    return getClass().getSimpleName() + Arrays.toString(new int[] {rows, columns});
  }
}
