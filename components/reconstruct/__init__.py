"""Rank-k images from stored factors, written as derived DICOM series."""
