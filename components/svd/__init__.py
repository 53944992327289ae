"""Factor A = U diag(s) V^T on an engine of choice; on Spark through a SparkApplication."""
