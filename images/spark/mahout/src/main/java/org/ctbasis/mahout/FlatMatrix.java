package org.ctbasis.mahout;

import com.esotericsoftware.kryo.DefaultSerializer;
import com.esotericsoftware.kryo.Kryo;
import com.esotericsoftware.kryo.Serializer;
import com.esotericsoftware.kryo.io.Input;
import com.esotericsoftware.kryo.io.Output;
import java.nio.ByteBuffer;
import org.apache.mahout.math.Matrix;
import org.apache.mahout.math.function.DoubleDoubleFunction;
import org.apache.mahout.math.function.Functions;

/** A {@link RowMajor} matrix of doubles; Kryo writes its array in bulk, not vector by vector. */
@DefaultSerializer(FlatMatrix.InBulk.class)
public final class FlatMatrix extends RowMajor {

  final double[] values;

  /** Create a matrix on `values`, row by row, without a copy. */
  public FlatMatrix(double[] values, int rows, int columns) {
    this(values, rows, columns, 0, columns);
  }

  private FlatMatrix(double[] values, int rows, int columns, int offset, int stride) {
    super(rows, columns, offset, stride);
    this.values = values;
  }

  @Override
  RowMajor part(int rows, int columns, int offset) {
    return new FlatMatrix(values, rows, columns, offset, stride);
  }

  /** Return this matrix in a form that netlib accepts: netlib requires a whole stride after the last row as well. */
  FlatMatrix checked() {
    return offset + rows * stride <= values.length ? this : new FlatMatrix(packed(), rows, columns);
  }

  @Override
  void widen(int first, int count, double[] into) {
    if (stride == columns) {
      System.arraycopy(values, at(first, 0), into, 0, count * columns);
      return;
    }
    for (int i = 0; i < count; i++) {
      System.arraycopy(values, at(first + i, 0), into, i * columns, columns);
    }
  }

  @Override
  Object array() {
    return values;
  }

  @Override
  public double getQuick(int row, int column) {
    return values[at(row, column)];
  }

  @Override
  public void setQuick(int row, int column, double value) {
    values[at(row, column)] = value;
  }

  /** Mahout adds up the products of blocks with this method; addition of two flat matrices is a plain loop. */
  @Override
  public Matrix assign(Matrix other, DoubleDoubleFunction function) {
    if (function != Functions.PLUS || !(other instanceof FlatMatrix) || other.rowSize() != rows
        || other.columnSize() != columns) {
      return super.assign(other, function);
    }
    FlatMatrix flat = (FlatMatrix) other;
    for (int i = 0; i < rows; i++) {
      int here = at(i, 0);
      int there = flat.at(i, 0);
      for (int j = 0; j < columns; j++) {
        values[here + j] += flat.values[there + j];
      }
    }
    return this;
  }

  /** Kryo serializer: rows, columns, then the values in the order of memory, one buffer at a time. */
  public static final class InBulk extends Serializer<FlatMatrix> {

    private static final int BUFFER_DOUBLES = 1 << 13;

    @Override
    public void write(Kryo kryo, Output output, FlatMatrix matrix) {
      output.writeInt(matrix.rows);
      output.writeInt(matrix.columns);
      double[] values = matrix.packed();
      byte[] bytes = new byte[BUFFER_DOUBLES * Double.BYTES];
      for (int i = 0; i < values.length; i += BUFFER_DOUBLES) {
        int count = Math.min(BUFFER_DOUBLES, values.length - i);
        ByteBuffer.wrap(bytes).asDoubleBuffer().put(values, i, count);
        output.writeBytes(bytes, 0, count * Double.BYTES);
      }
    }

    @Override
    public FlatMatrix read(Kryo kryo, Input input, Class<FlatMatrix> type) {
      int rows = input.readInt();
      int columns = input.readInt();
      double[] values = new double[Math.multiplyExact(rows, columns)];
      byte[] bytes = new byte[BUFFER_DOUBLES * Double.BYTES];
      for (int i = 0; i < values.length; i += BUFFER_DOUBLES) {
        int count = Math.min(BUFFER_DOUBLES, values.length - i);
        input.readBytes(bytes, 0, count * Double.BYTES);
        ByteBuffer.wrap(bytes).asDoubleBuffer().get(values, i, count);
      }
      return new FlatMatrix(values, rows, columns);
    }
  }
}
