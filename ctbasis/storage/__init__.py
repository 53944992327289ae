"""Storage of arrays as zarr stores in a folder or below an S3 prefix, in chunks with checksums."""
