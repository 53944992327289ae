"""Bounds of the time of a factorization: reading the bytes of A, and the products on float64 in memory alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ctbasis.threads import available_cpus

if TYPE_CHECKING:
    from ctbasis.matrix.store import MatrixStore


def read_bytes(matrix: MatrixStore) -> None:
    """Read the bytes of A once, with one thread per core, without decoding them."""
    files = [path for path in Path(matrix.uri, "A").rglob("*") if path.is_file()]

    def one(path: Path) -> int:
        with path.open("rb", buffering=0) as file:
            return sum(iter(lambda: len(file.read(1 << 20)), 0))

    with ThreadPoolExecutor(available_cpus()) as pool:
        for _ in pool.map(one, files):
            pass


def exact_products(matrix: MatrixStore, rank: int) -> None:
    """Compute A^T A and A V for every row block, each time on the same block in memory, without reading or writing."""
    A = matrix.read_block(0)
    V = np.linalg.qr(np.random.default_rng(0).standard_normal((matrix.cols, rank)))[0]
    G, U = np.empty((matrix.cols, matrix.cols)), np.empty((len(A), rank))
    for _ in range(matrix.block_count):
        np.matmul(A.T, A, out=G)
    for _ in range(matrix.block_count):
        np.matmul(A, V, out=U)


def randomized_products(matrix: MatrixStore, width: int, power_iters: int) -> None:
    """Compute A Z and A^T (A Z), (n, width), for every row block in each power iteration, and A Z for the sketch.

    Each product is of the same block in memory, without reading or writing.
    """
    A = matrix.read_block(0)
    Z = np.linalg.qr(np.random.default_rng(0).standard_normal((matrix.cols, width)))[0]
    Y, W = np.empty((len(A), width)), np.empty(Z.shape)
    for _ in range((power_iters + 1) * matrix.block_count):
        np.matmul(A, Z, out=Y)
        np.matmul(A.T, Y, out=W)
    for _ in range(matrix.block_count):
        np.matmul(A, Z, out=Y)
