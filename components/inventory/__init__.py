"""List the series of a source, and determine what a cohort run computes at once."""
