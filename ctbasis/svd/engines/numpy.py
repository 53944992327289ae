"""NumPy on one machine: threads that each process their own row blocks, within `--memory` for any number of rows.

One thread converts, checks and multiplies a row block while others wait for the disk. BLAS uses one thread in each of
them, because products of panels that fit the cache scale with the number of blocks and not within a block. The memory
that the limit leaves over keeps blocks, in their dtype on disk, from one pass to the next, so a matrix that fits is
read once.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from threadpoolctl import threadpool_limits

from ctbasis.errors import CtbasisError
from ctbasis.progress import progress
from ctbasis.svd.memory import FREE_MEMORY_SHARE, free_memory, held_memory
from ctbasis.svd.method import factorize_with, resolve_method
from ctbasis.svd.passes import fold, panel_rows
from ctbasis.svd.workers import Workers, ranges, read_block
from ctbasis.threads import available_cpus, in_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from ctbasis.svd.factors import FactorWriter
    from ctbasis.svd.passes import Parts, Pass
    from ctbasis.svd.plan import Plan
    from ctbasis.svd.spectrum import Spectrum
    from ctbasis.svd.workers import RowBlocks, WorkersFactory

MIB = 2**20

BLOCK_RANGES = 64
"""Number of ranges into which the row blocks are split; threads take them in turn, so no more threads than this have
work."""


def factorize(matrix: RowBlocks, factors: FactorWriter, plan: Plan) -> Spectrum:
    """Factor `matrix` by the plan's method, with threads of this process.

    Raises:
        CtbasisError: The matrix contains NaN or Inf, or `plan.memory` does not suffice for one row block and its
            products.
    """
    workers = ThreadWorkers(matrix, memory=plan.memory, bytes_per_thread=thread_bytes(matrix, plan))
    return factorize_with(workers, factors, plan)


@contextmanager
def open_workers(cluster: str = "", memory: int = 0) -> Iterator[WorkersFactory]:
    """Yield a function that returns threads of this process as workers on a matrix.

    Args:
        cluster: Ignored; this engine has no cluster.
        memory: Bytes that this process may take; 0 for a share of the free memory.
    """
    del cluster
    yield lambda matrix, bytes_per_thread: ThreadWorkers(matrix, memory=memory, bytes_per_thread=bytes_per_thread)


class ThreadWorkers(Workers):
    """Threads of this process.

    Args:
        matrix: A.
        memory: Bytes that this process may take; 0 for a share of the free memory.
        bytes_per_thread: The most bytes that one thread needs.

    Raises:
        CtbasisError: The limit is below the need of one thread.
    """

    def __init__(self, matrix: RowBlocks, *, memory: int, bytes_per_thread: int) -> None:
        super().__init__(matrix)
        limit = memory or int(held_memory() + FREE_MEMORY_SHARE * free_memory())
        spare = limit - held_memory()
        self.count = min(available_cpus(), matrix.block_count, BLOCK_RANGES, spare // bytes_per_thread)
        if self.count < 1:
            raise CtbasisError(
                f"memory is limited to {limit // MIB} MiB, of which this process holds {held_memory() // MIB}",
                expected=f"{(held_memory() + bytes_per_thread) // MIB + 1} MiB for one thread on row blocks of this "
                "matrix",
                remedy="raise --memory, or choose an engine that runs on several machines",
            )
        self._cache: dict[int, NDArray[Any]] = {}
        self._cache_room = spare - self.count * bytes_per_thread
        self._lock = threading.Lock()

    def _run(self, work: Pass) -> Parts:
        # The ranges do not depend on the number of threads, and their results are merged in order: equal runs give
        # equal bits on any machine.
        block_ranges = ranges(self.matrix.block_count, BLOCK_RANGES)
        done = iter(progress(range(self.matrix.block_count), f"svd: {work.name}", unit="block"))
        stopped = threading.Event()

        def run_range(indices: range) -> Parts | None:
            try:
                return fold(work, self._blocks(indices, work, done, stopped))
            except BaseException:
                stopped.set()
                raise

        blas_threads = max(1, available_cpus() // self.count)
        total: Parts | None = None
        with threadpool_limits(blas_threads, user_api="blas"), ThreadPoolExecutor(self.count) as pool:
            for part in in_order(pool, run_range, block_ranges, ahead=self.count):
                if part is not None:
                    total = part if total is None else work.merge(total, part)
        next(done, None)
        if total is None:
            raise CtbasisError(f"{self.matrix.uri} has no row block", expected="at least one")
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
        cached = self._cache.get(index)
        if cached is not None and reads:
            with self._lock:
                # `Workers.run` counts every block of a pass as read.
                self.bytes_read -= cached.nbytes
            return cached
        values = read_block(self.matrix, index, reads=reads)
        with self._lock:
            if reads and values.nbytes <= self._cache_room:
                self._cache_room -= values.nbytes
                self._cache[index] = values
        return values


def thread_bytes(matrix: RowBlocks, plan: Plan) -> int:
    """Return the most bytes that one thread needs.

    They hold a block as it is read and decoded, and in float64 for QR; its rows of U or of the sketch; the small
    matrices as computed, as added up and as merged; and a panel with its products.
    """
    rows, n = matrix.block(0).stop, matrix.cols
    exact = resolve_method(plan) == "exact"
    width = n if exact else 2 * plan.rank + plan.oversample + 16
    block = rows * n * (3 * matrix.dtype.itemsize + (16 if exact else 0))
    panel = 8 * min(rows, panel_rows(n)) * (n + 2 * width)
    return int(block + rows * (24 * plan.rank if exact else 40 * width) + 4 * 8 * n * width + panel + 8 * MIB)
