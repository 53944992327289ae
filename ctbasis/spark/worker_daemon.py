"""PySpark's daemon of Python workers, with what every task of ours imports already imported: `python -m` this.

Spark's `spark.python.daemon.module` names it (manifests/sparkapplication.yaml). A worker is forked from it, so that an
executor pays the import of NumPy and zarr once and not once a core, and holds one copy of their code. Four things that
a worker does with each task would otherwise take longer than a small task:

- It collects garbage: what is imported is frozen, and not gone through.
- It invalidates the caches of importers: for those of Spark's zip files and jars, which it has its own code from, that
  is to read their directories again, and so they are forgotten.
- It waits: the JVM writes a task in two pieces, and its kernel keeps the second back until the first is acknowledged
  (Nagle's algorithm), which the worker's kernel puts off by 40 ms, so each piece is acknowledged as it is read.
- It asks the kernel for the memory of every row block anew, which comes page by page and is cleared: what it frees it
  keeps.
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

import ctbasis.svd.engines.mahout  # noqa: F401 - this is the point

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import WriteableBuffer

    Main = Callable[[io.BufferedReader, io.BufferedWriter], None]
    """PySpark's `worker.main`: runs the next task that comes, and sends what comes of it."""

QUICK_ACK = getattr(socket, "TCP_QUICKACK", 0)
"""Linux alone can be told when to acknowledge; 0 elsewhere."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Of glibc's malloc.h."""

LARGEST_KEPT = 32 << 20
"""Bytes of an array up to which its memory is used again; the most that glibc takes, and more than a row block has."""

MOST_KEPT = 256 << 20
"""Bytes that a worker keeps without using them."""


def forget_zip_files() -> None:
    """Drop the importers of zip files; one that is needed again is made again."""
    for path, importer in list(sys.path_importer_cache.items()):
        if isinstance(importer, zipimporter):
            del sys.path_importer_cache[path]


def keep_freed_memory() -> None:
    """Let arrays of `LARGEST_KEPT` bytes and less be made of memory that was freed; does nothing but under glibc."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(M_TRIM_THRESHOLD, MOST_KEPT)


class Acknowledging(io.RawIOBase):
    """What comes through a TCP socket, each piece acknowledged as soon as it is read.

    Args:
        stream: Reads the socket.
    """

    def __init__(self, stream: io.BufferedReader) -> None:
        self._stream = stream
        self._socket = socket.socket(fileno=os.dup(stream.fileno()))
        self._told = QUICK_ACK != 0 and self._socket.family in {socket.AF_INET, socket.AF_INET6}

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Read what has come, as much as there is room for; 0 at the end."""
        found = self._stream.readinto1(buffer)
        if self._told:
            # Each time, for the kernel goes back to putting it off by and by.
            self._socket.setsockopt(socket.IPPROTO_TCP, QUICK_ACK, 1)
        return found

    def close(self) -> None:
        """Let go of the socket, which stays open for whoever else has it."""
        self._socket.close()
        super().close()


def prepared(main: Main) -> Main:
    """Return `main` without what takes long at the start of each task."""

    @wraps(main)
    def prepared_main(infile: io.BufferedReader, outfile: io.BufferedWriter) -> None:
        # Those that an import within the task before had made again.
        forget_zip_files()
        main(io.BufferedReader(Acknowledging(infile), io.DEFAULT_BUFFER_SIZE), outfile)

    return prepared_main


if __name__ == "__main__":
    from pyspark import daemon

    daemon.worker_main = prepared(daemon.worker_main)
    keep_freed_memory()
    forget_zip_files()
    gc.collect()
    gc.freeze()
    daemon.manager()
