"""Put the results of one job of a cohort in the output."""
