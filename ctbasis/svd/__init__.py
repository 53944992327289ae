"""The factorization A = U diag(s) V^T: numerics, and the engines that run it."""
