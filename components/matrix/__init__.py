"""DICOM series to the matrix A: select, order, convert to HU, store."""
