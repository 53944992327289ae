"""Kubeflow Pipelines: compiles the pipeline, checks it, runs it on this machine, and submits it to a server."""
