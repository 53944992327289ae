"""Sources of DICOM files (S3 prefixes, folders), one module per URI scheme, and fetching their objects."""
