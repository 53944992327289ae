"""What makes and measures CT around the pipeline: phantom, dose simulator, score, bench. No step imports it."""
