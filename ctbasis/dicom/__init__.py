"""DICOM in (headers, pixels, series, Hounsfield units) and out (derived series)."""
