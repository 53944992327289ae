"""PySpark's daemon of Python workers, with what every task of ours imports already imported: `python -m` this.

Spark's `spark.python.daemon.module` names it (manifests/sparkapplication.yaml). A worker is forked from it, so that an
executor pays the import of NumPy and zarr once and not once a core, and holds one copy of their code. Three things that
a worker does with each task would otherwise take longer than a small task. It collects garbage: what is imported is
frozen, and not gone through. It invalidates the caches of importers: for those of Spark's zip files and jars, which it
has its own code from, that is to read their directories again, and so they are forgotten. It waits: the JVM writes a
task in two pieces, and its kernel keeps the second back until the first is acknowledged (Nagle's algorithm), which the
worker's kernel puts off by 40 ms, so the worker asks for acknowledgements at once.
"""

from __future__ import annotations

import gc
import socket
import sys
from functools import wraps
from typing import TYPE_CHECKING
from zipimport import zipimporter

import components.svd.engines.mahout  # noqa: F401 - this is the point

if TYPE_CHECKING:
    from collections.abc import Callable

    Worker = Callable[[socket.socket, bool], int]
    """PySpark's `worker`: runs the next task that comes through the socket, and returns an exit code."""


def forget_zip_files() -> None:
    """Drop the importers of zip files; one that is needed again is made again."""
    for path, importer in list(sys.path_importer_cache.items()):
        if isinstance(importer, zipimporter):
            del sys.path_importer_cache[path]


def acknowledging(worker: Worker) -> Worker:
    """Return `worker`, at the start of each task of which the socket acknowledges at once what it receives.

    The kernel goes back to putting it off by and by, so that once a connection would not do. Linux alone can be told.
    """

    @wraps(worker)
    def acknowledging_worker(sock: socket.socket, authenticated: bool) -> int:
        if hasattr(socket, "TCP_QUICKACK") and sock.family in {socket.AF_INET, socket.AF_INET6}:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        return worker(sock, authenticated)

    return acknowledging_worker


if __name__ == "__main__":
    from pyspark import daemon

    daemon.worker = acknowledging(daemon.worker)
    forget_zip_files()
    gc.collect()
    gc.freeze()
    daemon.manager()
