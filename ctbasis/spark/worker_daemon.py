"""PySpark's daemon of Python workers with the modules of every task imported; run as `python -m`.

The setting `spark.python.daemon.module` names this module (manifests/sparkapplication.yaml). Workers are forked from
the daemon, so that an executor imports NumPy and zarr once instead of once a core, and has one copy of their code in
memory. In addition, the daemon avoids four costs of each task that would exceed the time of a small task:

- Garbage collection: imported objects are frozen, so that the collector does not visit them.
- Invalidation of import caches: importers of zip files and jars would read their directories again, so they are
  dropped from the cache.
- Nagle's algorithm: the JVM writes a task in two parts, and its kernel sends the second when the first is acknowledged,
  which the worker's kernel delays by 40 ms. The worker therefore acknowledges each part when it is read.
- Memory: the kernel clears every new page, so a worker keeps the memory of freed row blocks for the next ones.
"""

from __future__ import annotations

import ctypes
import gc
import io
import os
import socket
import sys
from functools import wraps
from typing import TYPE_CHECKING
from zipimport import zipimporter

import ctbasis.svd.engines.mahout  # noqa: F401 - imported here for all workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import WriteableBuffer

    Main = Callable[[io.BufferedReader, io.BufferedWriter], None]
    """PySpark's `worker.main`: runs the next task and sends its result."""

QUICK_ACK = getattr(socket, "TCP_QUICKACK", 0)
"""Socket option of Linux for immediate acknowledgement; 0 on other systems."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of mallopt, from malloc.h of glibc."""

LARGEST_KEPT = 32 << 20
"""Largest array in bytes whose memory is reused; the maximum of glibc, and more than a row block has."""

MOST_KEPT = 256 << 20
"""Bytes of freed memory that a worker keeps."""


def forget_zip_files() -> None:
    """Drop the importers of zip files from the cache; Python creates one again when it needs it."""
    for path, importer in list(sys.path_importer_cache.items()):
        if isinstance(importer, zipimporter):
            del sys.path_importer_cache[path]


def keep_freed_memory() -> None:
    """Reuse freed memory for arrays of up to `LARGEST_KEPT` bytes; has no effect without glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, MOST_KEPT)


class Acknowledging(io.RawIOBase):
    """A stream over a TCP socket that acknowledges received data as soon as it is read.

    Args:
        stream: Buffered reader of the socket.
    """

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._socket = socket.socket(fileno=os.dup(stream.fileno()))
        self._acknowledges = QUICK_ACK != 0 and self._socket.family in {socket.AF_INET, socket.AF_INET6}

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read received data into `buffer`; return the number of bytes, 0 at the end."""
        count = self._stream.readinto1(buffer)
        if self._acknowledges:
            # Each time, because the kernel returns to delayed acknowledgement by itself.
            self._socket.setsockopt(socket.IPPROTO_TCP, QUICK_ACK, 1)
        return count

    def close(self) -> None:
        """Close this handle of the socket; other handles stay open."""
        self._socket.close()
        super().close()


def prepared(main: Main) -> Main:
    """Return `main` without the costs that each task would have at its start."""

    @wraps(main)
    def prepared_main(infile: io.BufferedReader, outfile: io.BufferedWriter) -> None:
        # Importers that an import in the previous task has created.
        forget_zip_files()
        main(io.BufferedReader(Acknowledging(infile), io.DEFAULT_BUFFER_SIZE), outfile)

    return prepared_main


def prepare_workers() -> None:
    """Let each worker that is forked from this process run tasks by `prepared`.

    A forked worker takes `main` from the module `pyspark.worker`, which is imported here once; that starts no thread.
    """
    from pyspark import worker

    worker.main = prepared(worker.main)


if __name__ == "__main__":
    from pyspark import daemon

    prepare_workers()
    keep_freed_memory()
    forget_zip_files()
    gc.collect()
    gc.freeze()
    daemon.manager()
