"""Patch mode: a volume's overlapping 3-D patches as a tall matrix, whitened by its noise, factored, thresholded."""
