"""Pictures, numbers and one self-contained page about a run."""
