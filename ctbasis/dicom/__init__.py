"""Reading DICOM CT (headers, pixel data, series, Hounsfield units) and writing derived series."""
