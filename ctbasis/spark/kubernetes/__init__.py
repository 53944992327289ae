"""The svd step on Kubernetes: the API server, the SparkApplication, its pods and the log of its driver."""
