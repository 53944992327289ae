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
 * The byte format of row blocks between Python and the JVM. All numbers are little-endian. A block begins with a header of
 * four int32: first row, rows, columns, and bytes per value. The values follow row by row (2 bytes: int16, 4: float32, 8:
 * float64). Python sends the values after the header in any number of arrays, so that neither side holds a block twice.
 * The JVM sends a block to Python in one array, because Python needs it as a whole.
 */
final class Blocks {

  private static final int HEADER = 4 * Integer.BYTES;

  /** Number of elements of a part of a block. */
  private static final int PART_ELEMENTS = 1 << 19;
  private static final int MIN_PART_ROWS = 1024;

  private Blocks() {}

  /**
   * Return the blocks of A from their headers and values.
   *
   * @param stock whether Mahout's own kernels run; for the replaced kernels, a block is split into parts of few rows
   */
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
            new Tuple2<>(IntStream.range(first + done, first + done + rows).toArray(), stock ? toMahoutMatrix(part) : part);
        done += rows;
        if (done == block.rowSize()) {
          block = null;
        }
        return keyed;
      }
    };
  }

  /**
   * Return the number of rows of a part. Intermediate results of a part are small enough for the processor's cache and for
   * the small young generation of the heap. A part has enough rows that adding up the products of all parts takes little
   * time.
   */
  private static int partRows(int cols) {
    return Math.max(MIN_PART_ROWS, PART_ELEMENTS / Math.max(1, cols));
  }

  private static RowMajor read(Iterator<byte[]> parts, int rows, int cols, int width) {
    Object values = read(parts, Math.multiplyExact(rows, cols), width);
    return values instanceof double[]
        ? new FlatMatrix((double[]) values, rows, cols)
        : new NarrowMatrix(values, rows, cols);
  }

  /** Return `count` values of `width` bytes each, in an array of their type. */
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

  private static Matrix toMahoutMatrix(RowMajor block) {
    double[][] rows = new double[block.rowSize()][block.columnSize()];
    for (int i = 0; i < block.rowSize(); i++) {
      block.widen(i, 1, rows[i]);
    }
    return new DenseMatrix(rows, true);
  }

  /**
   * Return one block for each run of consecutive keys, since a partition may hold several blocks of the matrix in any order.
   *
   * @param width bytes per value in the store that receives the block: 4 or 8
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
