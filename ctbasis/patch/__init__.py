"""Patch mode: overlapping 3-D patches form a tall matrix, which is whitened, factored and thresholded."""
