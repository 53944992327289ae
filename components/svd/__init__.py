"""Factor A = U diag(s) V^T, or denoise A in patch mode, with a choice of engines."""
