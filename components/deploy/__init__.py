"""Let a served model serve the basis of a run."""
