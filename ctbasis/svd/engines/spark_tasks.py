"""How a pass is divided into Spark tasks, and how executors combine the results of the tasks.

A pass has one task for each core of the executors, and a task combines the results of all its row blocks before it
sends anything. With executors of one core, as in manifests/application/sparkapplication.yaml, the traffic of a product
A^T Y is therefore executors x n (k + p) numbers, for any number of row blocks. Then the executors combine the results
of the tasks, and the driver receives one result:

- Sums are cut into as many pieces as there are tasks. One task adds up the first pieces of all results, another one the
  second pieces, and so on (a reduce-scatter), so that no process receives more than the size of one result.
- Other results, such as the factor R of a QR factorization, are combined in a tree. It adds at most a seventh to the
  traffic.

Floating-point addition is not associative. The row blocks of a task, and the order in which results are combined,
depend on the settings of the application only, if these state the number of executors (`configured_slots`). They do not
depend on which executor ran a task, which task was first, and how often a task was tried. A run that loses an executor
therefore gives the same bits as one that does not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial, reduce
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import threadpool_limits

from ctbasis.svd.passes import add

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray
    from pyspark import RDD, SparkConf, SparkContext

    from ctbasis.svd.engines.spark_broadcast import Shared
    from ctbasis.svd.passes import Parts, Pass

    Merge = Callable[[Parts, Parts], Parts]

    Piece = tuple[int, tuple[int, "Layout", NDArray[np.float64]]]
    """Number of the piece, and then the number of its task, the layout of the whole, and the values."""

    Layout = tuple[tuple[tuple[int, ...], str], ...]
    """Shape and dtype of each array of a result; empty except in the first piece."""

TASKS_PER_CORE = 3
"""Where all tasks run on this machine: enough that no core is idle for long at the end of a pass, and few enough that
adding up is cheap."""

MIN_TASK_BLOCKS = 16
"""Number of row blocks that justify the start of one more task where every core has one already."""

MAX_LOCAL_PARTS = 16
"""Largest number of results that the driver combines alone if the tasks ran on its machine."""

PIECE_BYTES = 1 << 16
"""Smallest size of a piece of a sum: a smaller one takes longer to announce than to send."""

FAN_IN = 8
"""Number of results that a task of a tree combines."""


def is_local(spark: SparkContext) -> bool:
    """Return whether the tasks run in the process of Spark's driver, where sending a result costs nothing."""
    master: str = spark.master
    return master == "local" or master.startswith("local[")


def slots(spark: SparkContext) -> int:
    """Return the number of tasks that the executors of the application run at the same time.

    An executor with several cores runs one task that uses all of them if `spark.task.cpus` is equal to
    `spark.executor.cores`; it then sends one sum, too.
    """
    conf = spark.getConf()
    return configured_slots(conf, spark.master) or max(1, spark.defaultParallelism // _cpus(conf))


def configured_slots(conf: SparkConf, master: str) -> int:
    """Return the number of tasks at the same time that the settings state; 0 if they do not.

    Unlike the number of executors that have registered, it is the same while executors start, and after one is lost.
    Spark's own cluster manager gives an application all cores unless `spark.cores.max` is set.
    """
    if master.startswith(("k8s://", "yarn")):
        dynamic = conf.get("spark.dynamicAllocation.enabled", "false") == "true"
        executors = conf.get("spark.dynamicAllocation.maxExecutors" if dynamic else "spark.executor.instances", "0")
        return int(executors or 0) * (int(conf.get("spark.executor.cores", "1") or 1) // _cpus(conf))
    if found := re.fullmatch(r"local-cluster\[ *(\d+) *, *(\d+) *,.*", master):
        return int(found[1]) * (int(found[2]) // _cpus(conf))
    return int(conf.get("spark.cores.max", "0") or 0) // _cpus(conf) if master.startswith("spark://") else 0


def _cpus(conf: SparkConf) -> int:
    return int(conf.get("spark.task.cpus", "1") or 1)


def task_count(blocks: int, cores: int, *, local: bool) -> int:
    """Return the number of tasks for `blocks` row blocks: one for each core, as long as there are blocks.

    Where all tasks run on this machine there are more, so that no core is idle for long at the end of a pass.

    >>> [task_count(blocks, 2, local=False) for blocks in (1, 8, 64, 1000)]
    [1, 2, 2, 2]
    >>> [task_count(blocks, 2, local=True) for blocks in (1, 8, 64, 1000)]
    [1, 2, 4, 6]
    """
    more = min(TASKS_PER_CORE * cores, blocks // MIN_TASK_BLOCKS) if local else 0
    return min(blocks, max(cores, more))


def task_cpus() -> int:
    """Return the number of cores of the task that calls this function; 1 outside of a task."""
    from pyspark import TaskContext

    context = TaskContext.get()
    return 1 if context is None else context.cpus()


@dataclass(frozen=True)
class SharedMerge:
    """The `merge` of a pass that is broadcast.

    Attributes:
        work: The pass.
    """

    work: Shared[Pass]

    def __call__(self, one: Parts, other: Parts) -> Parts:
        """Return the result for the rows of both."""
        work: Pass = self.work.value
        return work.merge(one, other)


def merge_of(work: Pass, shared: Shared[Pass]) -> Merge:
    """Return the `merge` of `work` in a form that tasks receive without the operands of the pass."""
    return add if work.merge is add else SharedMerge(shared)


def combined(parts: RDD[Parts], merge: Merge) -> Parts:
    """Combine the results of all partitions in the order of the partitions.

    Args:
        parts: The results; a partition may have several.
        merge: `add`, or the `merge` of another pass.
    """
    count = parts.getNumPartitions()
    results = parts.mapPartitionsWithIndex(partial(merge_task, merge))
    if count == 1 or (is_local(parts.context) and count <= MAX_LOCAL_PARTS):
        parts_in_order: list[Parts] = results.values().collect()
        return reduce(merge, parts_in_order)
    return _scattered_sum(results, count) if merge is add else _tree(results, count, merge)


def bytes_sent(total: Parts, tasks: int, *, local: bool) -> int:
    """Return the bytes that tasks send for a result `total`: each task one result, and executors one to the driver."""
    size = sum(int(array.nbytes) for array in total)
    return size * (tasks if tasks == 1 or (local and tasks <= MAX_LOCAL_PARTS) else tasks + 1)


def merge_task(merge: Merge, task: int, parts: Iterable[Parts]) -> Iterator[tuple[int, Parts]]:
    """Yield the number of a task, and the results of its row blocks combined; nothing if it has no row block."""
    rest = iter(parts)
    for first in rest:
        yield task, reduce(merge, rest, first)


def _scattered_sum(results: RDD[tuple[int, Parts]], count: int) -> Parts:
    pieces = results.flatMap(partial(cut, count)).partitionBy(count, int)
    # The partitions, and with them the pieces, are collected in order.
    sums = pieces.mapPartitions(add_pieces).collect()
    flat, total, first = np.concatenate([values for _, values in sums]), [], 0
    for shape, dtype in sums[0][0]:
        size = int(np.prod(shape))
        total.append(flat[first : first + size].reshape(shape).astype(dtype, copy=False))
        first += size
    return tuple(total)


def cut(most: int, result: tuple[int, Parts]) -> Iterator[Piece]:
    """Yield the result of a task in at most `most` pieces of equal size, each after its number."""
    task, parts = result
    layout = tuple((array.shape, str(array.dtype)) for array in parts)
    flat = np.concatenate([array.ravel() for array in parts], dtype=np.float64)
    count = max(1, min(most, flat.nbytes // PIECE_BYTES))
    for number, piece in enumerate(np.array_split(flat, count)):
        yield number, (task, layout if number == 0 else (), piece)


def add_pieces(pieces: Iterable[Piece]) -> Iterator[tuple[Layout, NDArray[np.float64]]]:
    """Yield the sum of the pieces of one number, added up in the order of their tasks; nothing if there is no piece."""
    in_order = sorted((piece for _, piece in pieces), key=lambda piece: piece[0])
    if in_order:
        _, layout, total = in_order[0]
        for _, _, values in in_order[1:]:
            np.add(total, values, out=total)
        yield layout, total


def _tree(results: RDD[tuple[int, Parts]], count: int, merge: Merge) -> Parts:
    level = results
    while count > 1:
        count = -(-count // FAN_IN)
        level = level.map(_with_parent).partitionBy(count, int).mapPartitions(partial(_merge_children, merge))
    whole: list[tuple[int, Parts]] = level.collect()
    return whole[0][1]


def _with_parent(child: tuple[int, Parts]) -> tuple[int, tuple[int, Parts]]:
    return child[0] // FAN_IN, child


def _merge_children(merge: Merge, children: Iterable[tuple[int, tuple[int, Any]]]) -> Iterator[tuple[int, Parts]]:
    """Yield the number of a node of the tree, and the results of its children combined in their order."""
    in_order = sorted(children, key=lambda child: child[1][0])
    if in_order:
        with threadpool_limits(task_cpus(), user_api="blas"):
            yield in_order[0][0], reduce(merge, [part for _, (_, part) in in_order])
