package org.ctbasis.mahout;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.DoubleBuffer;
import java.nio.FloatBuffer;
import java.nio.ShortBuffer;
import java.util.ArrayList;
import java.util.List;
import org.apache.mahout.math.DenseMatrix;
import org.apache.mahout.math.Matrix;
import scala.Tuple2;

/**
 * Row blocks on the wire between Python and the JVM, little-endian:
 * int32 first row, int32 rows, int32 columns, int32 bytes of a value, then the values row by row
 * (2 bytes: int16, 4: float32, 8: float64). The JVM widens to double; only double comes back.
 */
final class Blocks {

  private static final int HEADER = 4 * Integer.BYTES;

  private Blocks() {}

  static Tuple2<int[], Matrix> decode(byte[] bytes) {
    ByteBuffer buffer = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
    int first = buffer.getInt();
    int rows = buffer.getInt();
    int cols = buffer.getInt();
    int width = buffer.getInt();
    if (bytes.length != HEADER + (long) rows * cols * width) {
      throw new IllegalArgumentException(
          "a block of " + rows + " x " + cols + " x " + width + " bytes came as " + bytes.length + " bytes");
    }
    int[] keys = new int[rows];
    for (int i = 0; i < rows; i++) {
      keys[i] = first + i;
    }
    return new Tuple2<>(keys, new DenseMatrix(values(buffer, rows, cols, width), true));
  }

  private static double[][] values(ByteBuffer buffer, int rows, int cols, int width) {
    double[][] values = new double[rows][cols];
    switch (width) {
      case Short.BYTES -> {
        ShortBuffer shorts = buffer.asShortBuffer();
        for (double[] row : values) {
          for (int j = 0; j < cols; j++) {
            row[j] = shorts.get();
          }
        }
      }
      case Float.BYTES -> {
        FloatBuffer floats = buffer.asFloatBuffer();
        for (double[] row : values) {
          for (int j = 0; j < cols; j++) {
            row[j] = floats.get();
          }
        }
      }
      case Double.BYTES -> {
        DoubleBuffer doubles = buffer.asDoubleBuffer();
        for (double[] row : values) {
          doubles.get(row);
        }
      }
      default -> throw new IllegalArgumentException("values of " + width + " bytes");
    }
    return values;
  }

  /** One block for each run of consecutive keys: a partition may hold several blocks of the matrix, in any order. */
  static List<byte[]> encode(int[] keys, Matrix matrix) {
    List<byte[]> blocks = new ArrayList<>();
    int start = 0;
    for (int end = 1; end <= keys.length; end++) {
      if (end == keys.length || keys[end] != keys[end - 1] + 1) {
        blocks.add(encode(keys[start], matrix.viewPart(start, end - start, 0, matrix.columnSize())));
        start = end;
      }
    }
    return blocks;
  }

  static byte[] encode(int first, Matrix matrix) {
    double[] values = Dense.rowMajor(matrix);
    byte[] bytes = new byte[Math.toIntExact(HEADER + (long) values.length * Double.BYTES)];
    ByteBuffer buffer = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
    buffer.putInt(first).putInt(matrix.rowSize()).putInt(matrix.columnSize()).putInt(Double.BYTES);
    buffer.asDoubleBuffer().put(values);
    return bytes;
  }
}
