"""The Spark step: its description, its launch on this machine and on a cluster, and the driver program."""
