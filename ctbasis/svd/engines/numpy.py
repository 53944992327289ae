"""NumPy on one machine: threads, each with its own row blocks, and memory within `--memory` whatever m is.

A thread converts, checks and multiplies a row block while others wait for the disk; BLAS gets one thread in each, as
products of cached pieces scale by blocks and not within them. What the limit leaves over keeps blocks, as they are on
disk, from one pass to the next, so that a matrix that fits is read once.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from ctbasis.errors import CtbasisError
from ctbasis.progress import progress
from ctbasis.svd.memory import SHARE, free_memory, held_memory
from ctbasis.svd.method import chosen_method, factorize_by
from ctbasis.svd.passes import fold, piece_rows
from ctbasis.svd.workers import Workers, ranges, read_block
from ctbasis.threads import available_cpus, in_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ctbasis.svd.factors import FactorWriter
    from ctbasis.svd.passes import Parts, Pass
    from ctbasis.svd.plan import Plan
    from ctbasis.svd.spectrum import Spectrum
    from ctbasis.svd.workers import Gather, RowBlocks

MIB = 2**20

SHARES = 64
"""Runs of row blocks that threads take in turn; as many threads at most have work."""


def factorize(matrix: RowBlocks, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Factor `matrix` by the plan's method in the threads of this process.

    Raises:
        CtbasisError: The matrix holds NaN or Inf, or `plan.memory` does not hold one row block and what is made of it.
    """
    return factorize_by(Threads(matrix, memory=plan.memory, each=thread_bytes(matrix, plan)), factors, plan)


@contextmanager
def gathered(cluster: str = "", memory: int = 0) -> Iterator[Gather]:
    """Yield what gives threads of this process, within `memory` bytes or a share of what is free."""
    del cluster
    yield lambda matrix, each: Threads(matrix, memory=memory, each=each)


class Threads(Workers):
    """Threads of this process.

    Args:
        matrix: A.
        memory: Bytes that this process may take; 0 for a share of what is free.
        each: Bytes that one thread needs at most.

    Raises:
        CtbasisError: The limit is below what one thread needs.
    """

    def __init__(self, matrix: RowBlocks, *, memory: int, each: int) -> None:
        super().__init__(matrix)
        limit = memory or int(held_memory() + SHARE * free_memory())
        spare = limit - held_memory()
        self.count = min(available_cpus(), matrix.block_count, SHARES, spare // each)
        if self.count < 1:
            raise CtbasisError(
                f"memory is limited to {limit // MIB} MiB, of which this process holds {held_memory() // MIB}",
                expected=f"{(held_memory() + each) // MIB + 1} MiB for one thread on row blocks of this matrix",
                remedy="raise --memory, or take an engine that runs on several machines",
            )
        self._kept: dict[int, NDArray[Any]] = {}
        self._room = spare - self.count * each
        self._lock = threading.Lock()

    def _run(self, work: Pass) -> Parts:
        shares = ranges(self.matrix.block_count, SHARES)
        done = iter(progress(range(self.matrix.block_count), f"svd: {work.what}", unit="block"))
        stopped = threading.Event()

        def one(indices: range) -> Parts | None:
            try:
                return fold(work, self._blocks(indices, work, done, stopped))
            except BaseException:
                stopped.set()
                raise

        blas = max(1, available_cpus() // self.count)
        total: Parts | None = None
        with threadpool_limits(blas, user_api="blas"), ThreadPoolExecutor(self.count) as pool:
            # The same ranges however many threads there are, merged in order: equal runs give equal bits anywhere.
            for part in in_order(pool, one, shares, ahead=self.count):
                if part is not None:
                    total = part if total is None else work.merge(total, part)
        next(done, None)
        if total is None:
            raise CtbasisError(f"{self.matrix.uri} has no row block", expected="one at least")
        return total

    def _blocks(
        self, indices: range, work: Pass, done: Iterator[int], stopped: threading.Event
    ) -> Iterator[tuple[slice, NDArray[Any]]]:
        for index in indices:
            if stopped.is_set():
                return
            yield self.matrix.block(index), self._values(index, reads=work.reads)
            with self._lock:
                next(done)

    def _values(self, index: int, *, reads: bool) -> NDArray[Any]:
        kept = self._kept.get(index)
        if kept is not None and reads:
            with self._lock:
                self.bytes_read -= kept.nbytes
            return kept
        values = read_block(self.matrix, index, reads=reads)
        with self._lock:
            if reads and values.nbytes <= self._room:
                self._room -= values.nbytes
                self._kept[index] = values
        return values


def thread_bytes(matrix: RowBlocks, plan: Plan) -> int:
    """Return the bytes that one thread needs at most.

    A block as it is read and decoded, and in float64 for QR; its rows of U or of the sketch; the small matrices, as
    computed, as added up and as merged; and a piece with its products.
    """
    rows, n = matrix.block(0).stop, matrix.cols
    exact = chosen_method(plan) == "exact"
    width = n if exact else 2 * plan.rank + plan.oversample + 16
    block = rows * n * (3 * matrix.dtype.itemsize + (16 if exact else 0))
    piece = 8 * min(rows, piece_rows(n)) * (n + 2 * width)
    return int(block + rows * (24 * plan.rank if exact else 40 * width) + 4 * 8 * n * width + piece + 8 * MIB)
