"""What the svd step knows of a cluster: its API server, the SparkApplication there, its pods and its driver's log."""
