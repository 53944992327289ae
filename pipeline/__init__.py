"""What runs, in what order, and the ways to start it."""
