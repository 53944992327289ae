package org.ctbasis.mahout;

import java.util.Arrays;
import org.apache.mahout.math.AbstractMatrix;
import org.apache.mahout.math.Matrix;
import org.apache.mahout.math.Vector;
import org.apache.mahout.math.flavor.MatrixFlavor;

/**
 * A dense matrix whose values are in one array, row by row, as BLAS requires; Mahout's own DenseMatrix is an array of rows.
 * A part of such a matrix is such a matrix, on the same array.
 */
abstract class RowMajor extends AbstractMatrix {

  /** Index of the first value in the array. */
  final int offset;
  /** Distance in the array from a value to the value below it. */
  final int stride;

  RowMajor(int rows, int columns, int offset, int stride) {
    super(rows, columns);
    this.offset = offset;
    this.stride = stride;
  }

  abstract RowMajor part(int rows, int columns, int offset);

  /** Copy `count` rows from `first` on to `into`, converted to double and without gaps. */
  abstract void widen(int first, int count, double[] into);

  /** Return the array that contains the values. */
  abstract Object array();

  final int at(int row, int column) {
    return offset + row * stride + column;
  }

  /** Return the values in a new array, without gaps. */
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
      // The superclass throws Mahout's exception.
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

  /** Return a deep copy, as the other matrices of Mahout do. */
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
