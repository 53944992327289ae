"""The pipelines in KFP's DSL, and their compiled packages."""
