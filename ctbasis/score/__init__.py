"""Scores of a CT series against its clean copy."""
