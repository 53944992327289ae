"""The steps of the pipeline, one program each: a step reads a store and writes a store.

In order: fetch, matrix, svd, reconstruct, report, deploy (only where a served model is named), cleanup. Each of these
modules has a function `run_step`, which the KFP component of the same name calls.
"""
