"""What is left to do when a run has ended, however it ended."""
