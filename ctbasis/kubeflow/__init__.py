"""Kubeflow Pipelines: compile, lint, run on this machine, submit."""
