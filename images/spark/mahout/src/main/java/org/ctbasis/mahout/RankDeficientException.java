package org.ctbasis.mahout;

/** Mahout's dqrThin reports that Y has fewer than k + p independent columns. */
public final class RankDeficientException extends RuntimeException {

  private static final long serialVersionUID = 1L;

  RankDeficientException(Throwable cause) {
    super(cause.getMessage(), cause);
  }
}
