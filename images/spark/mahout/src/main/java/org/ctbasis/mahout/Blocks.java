package org.ctbasis.mahout;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.DoubleBuffer;
import java.nio.FloatBuffer;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.NoSuchElementException;
import java.util.stream.IntStream;
import org.apache.mahout.math.DenseMatrix;
import org.apache.mahout.math.Matrix;
import scala.Tuple2;

/**
 * Row blocks on the wire between Python and the JVM, little-endian. A header of int32 first row, int32 rows, int32
 * columns, int32 bytes of a value, then the values row by row (2 bytes: int16, 4: float32, 8: float64). From Python the
 * values follow the header in as many arrays as it likes, so that neither side holds a block twice; to Python, where a
 * block is needed as a whole, in the array of the header.
 */
final class Blocks {

  private static final int HEADER = 4 * Integer.BYTES;

  /** Elements of a part of a block. */
  private static final int PART = 1 << 19;
  private static final int LEAST_PART_ROWS = 1024;

  private Blocks() {}

  /** Blocks of A from their headers and values; but for Mahout's own kernels each in parts of few rows. */
  static Iterator<Tuple2<int[], Matrix>> decode(Iterator<byte[]> parts, boolean stock) {
    return new Iterator<>() {
      private RowMajor block;
      private int first;
      private int done;

      @Override
      public boolean hasNext() {
        return block != null || parts.hasNext();
      }

      @Override
      public Tuple2<int[], Matrix> next() {
        if (block == null) {
          ByteBuffer header = littleEndian(parts.next());
          first = header.getInt();
          block = read(parts, header.getInt(), header.getInt(), header.getInt());
          done = 0;
        }
        int rows = stock ? block.rowSize() : Math.min(partRows(block.columnSize()), block.rowSize() - done);
        RowMajor part = block.part(rows, block.columnSize(), block.at(done, 0));
        Tuple2<int[], Matrix> keyed =
            new Tuple2<>(IntStream.range(first + done, first + done + rows).toArray(), stock ? asMahoutHasIt(part) : part);
        done += rows;
        if (done == block.rowSize()) {
          block = null;
        }
        return keyed;
      }
    };
  }

  /**
   * What is made of a part, and dropped, is small: it stays in the processor's cache and in the young generation, which
   * is small. Not so few that adding up products of parts takes time.
   */
  private static int partRows(int cols) {
    return Math.max(LEAST_PART_ROWS, PART / Math.max(1, cols));
  }

  private static RowMajor read(Iterator<byte[]> parts, int rows, int cols, int width) {
    Object values = read(parts, Math.multiplyExact(rows, cols), width);
    return values instanceof double[]
        ? new FlatMatrix((double[]) values, rows, cols)
        : new NarrowMatrix(values, rows, cols);
  }

  /** `count` values of `width` bytes, in an array of their type. */
  private static Object read(Iterator<byte[]> parts, int count, int width) {
    short[] shorts = width == Short.BYTES ? new short[count] : null;
    float[] floats = width == Float.BYTES ? new float[count] : null;
    double[] doubles = width == Double.BYTES ? new double[count] : null;
    if (shorts == null && floats == null && doubles == null) {
      throw new IllegalArgumentException("values of " + width + " bytes");
    }
    int done = 0;
    while (done < count) {
      if (!parts.hasNext()) {
        throw new NoSuchElementException("a block of " + count + " values ended after " + done);
      }
      ByteBuffer part = littleEndian(parts.next());
      int more = part.remaining() / width;
      if (shorts != null) {
        part.asShortBuffer().get(shorts, done, more);
      } else if (floats != null) {
        part.asFloatBuffer().get(floats, done, more);
      } else {
        part.asDoubleBuffer().get(doubles, done, more);
      }
      done += more;
    }
    return shorts != null ? shorts : floats != null ? floats : doubles;
  }

  private static ByteBuffer littleEndian(byte[] bytes) {
    return ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
  }

  private static Matrix asMahoutHasIt(RowMajor block) {
    double[][] rows = new double[block.rowSize()][block.columnSize()];
    for (int i = 0; i < block.rowSize(); i++) {
      block.widen(i, 1, rows[i]);
    }
    return new DenseMatrix(rows, true);
  }

  /**
   * One block for each run of consecutive keys: a partition may hold several blocks of the matrix, in any order.
   *
   * @param width bytes of a value, as it is going to be stored: 4 or 8
   */
  static List<byte[]> encode(int[] keys, Matrix matrix, int width) {
    List<byte[]> blocks = new ArrayList<>();
    int start = 0;
    for (int end = 1; end <= keys.length; end++) {
      if (end == keys.length || keys[end] != keys[end - 1] + 1) {
        blocks.add(encode(keys[start], matrix.viewPart(start, end - start, 0, matrix.columnSize()), width));
        start = end;
      }
    }
    return blocks;
  }

  static byte[] encode(int first, Matrix matrix, int width) {
    int rows = matrix.rowSize();
    int cols = matrix.columnSize();
    RowMajor source = Dense.rowMajor(matrix);
    ByteBuffer buffer = littleEndian(new byte[Math.toIntExact(HEADER + (long) rows * cols * width)]);
    buffer.putInt(first).putInt(rows).putInt(cols).putInt(width);
    DoubleBuffer doubles = width == Double.BYTES ? buffer.asDoubleBuffer() : null;
    FloatBuffer floats = width == Double.BYTES ? null : buffer.asFloatBuffer();
    double[] row = new double[cols];
    float[] narrow = new float[cols];
    for (int i = 0; i < rows; i++) {
      source.widen(i, 1, row);
      if (doubles != null) {
        doubles.put(row);
        continue;
      }
      for (int j = 0; j < cols; j++) {
        narrow[j] = (float) row[j];
      }
      floats.put(narrow);
    }
    return buffer.array();
  }
}
