"""The steps of the pipeline, one program each: a step reads a store and writes a store."""
