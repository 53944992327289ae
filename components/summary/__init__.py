"""What became of each series of a cohort: page, CSV and Parquet."""
