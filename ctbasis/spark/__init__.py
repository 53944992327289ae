"""The svd step on Spark: its manifest, its launch on this machine or a cluster, and the driver program."""
