package org.ctbasis.mahout;

import com.esotericsoftware.kryo.DefaultSerializer;
import com.esotericsoftware.kryo.Kryo;
import com.esotericsoftware.kryo.Serializer;
import com.esotericsoftware.kryo.io.Input;
import com.esotericsoftware.kryo.io.Output;
import java.util.Arrays;

/**
 * A {@link RowMajor} matrix of int16 or float32 for A. It takes a quarter or a half of the memory of doubles. It is
 * read-only, and products convert a few rows at a time to double.
 */
@DefaultSerializer(NarrowMatrix.AsItIs.class)
final class NarrowMatrix extends RowMajor {

  /** Exactly one of the two arrays is not null. */
  private final short[] shorts;
  private final float[] floats;

  NarrowMatrix(Object array, int rows, int columns) {
    this(array, rows, columns, 0, columns);
  }

  private NarrowMatrix(Object array, int rows, int columns, int offset, int stride) {
    super(rows, columns, offset, stride);
    shorts = array instanceof short[] ? (short[]) array : null;
    floats = array instanceof float[] ? (float[]) array : null;
  }

  @Override
  RowMajor part(int rows, int columns, int offset) {
    return new NarrowMatrix(array(), rows, columns, offset, stride);
  }

  @Override
  void widen(int first, int count, double[] into) {
    for (int i = 0; i < count; i++) {
      int here = at(first + i, 0);
      int there = i * columns;
      if (shorts != null) {
        widen(shorts, here, into, there, columns);
      } else {
        widen(floats, here, into, there, columns);
      }
    }
  }

  private static void widen(short[] from, int here, double[] into, int there, int count) {
    for (int j = 0; j < count; j++) {
      into[there + j] = from[here + j];
    }
  }

  private static void widen(float[] from, int here, double[] into, int there, int count) {
    for (int j = 0; j < count; j++) {
      into[there + j] = from[here + j];
    }
  }

  @Override
  Object array() {
    return shorts != null ? shorts : floats;
  }

  /** Return a copy of the values of this matrix, which may be a part of a larger one. */
  private Object own() {
    int end = rows == 0 ? offset : at(rows - 1, columns);
    return shorts != null ? Arrays.copyOfRange(shorts, offset, end) : Arrays.copyOfRange(floats, offset, end);
  }

  @Override
  public double getQuick(int row, int column) {
    return shorts != null ? shorts[at(row, column)] : floats[at(row, column)];
  }

  @Override
  public void setQuick(int row, int column, double value) {
    throw new UnsupportedOperationException("a block of A is not written to");
  }

  /** Kryo serializer, for blocks of A that do not fit into memory or go to another executor. */
  public static final class AsItIs extends Serializer<NarrowMatrix> {

    @Override
    public void write(Kryo kryo, Output output, NarrowMatrix matrix) {
      output.writeInts(new int[] {matrix.rows, matrix.columns, matrix.stride});
      kryo.writeClassAndObject(output, matrix.own());
    }

    @Override
    public NarrowMatrix read(Kryo kryo, Input input, Class<NarrowMatrix> type) {
      int[] shape = input.readInts(3);
      return new NarrowMatrix(kryo.readClassAndObject(input), shape[0], shape[1], 0, shape[2]);
    }
  }
}
