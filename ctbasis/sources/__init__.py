"""Sources of images: one file a URI scheme, and fetching their objects whole."""
