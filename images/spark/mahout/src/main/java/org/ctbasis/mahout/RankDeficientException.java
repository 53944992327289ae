package org.ctbasis.mahout;

/** Mahout's dqrThin found Y to have fewer independent columns than k + p. */
public final class RankDeficientException extends RuntimeException {

  private static final long serialVersionUID = 1L;

  RankDeficientException(Throwable cause) {
    super(cause.getMessage(), cause);
  }
}
