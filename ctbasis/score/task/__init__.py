"""Image quality by task: resolution of inserts (TTF), and how well an observer detects or discriminates signals."""
