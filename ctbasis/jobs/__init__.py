"""Jobs of Kubernetes operators: the kinds, the API server, a job's pods and the log of its driver."""
