"""The matrix A (voxels x slices, HU): its store, and filling it from DICOM series."""
