"""Matrices in real stores, as in the svd room's tests."""

from tests.svd.conftest import store_matrix

__all__ = ["store_matrix"]
