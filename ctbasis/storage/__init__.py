"""Stores of arrays: a folder, or objects below an S3 prefix; chunks with checksums."""
