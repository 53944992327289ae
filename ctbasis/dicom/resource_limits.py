"""Limits on the resources that one file may use, checked before memory is allocated and enforced by the kernel.

A file beyond these limits is no CT that this pipeline can process, or was made to cause damage.
"""

from __future__ import annotations

import resource
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_HEADER_BYTES = 64 << 20
"""Bytes before PixelData. The header of an object with ten thousand frames has 40 MiB."""

MAX_KEPT_HEADER_BYTES = 1 << 21
"""Bytes of one slice's header after bulk data has been removed; a typical one has 5 KiB."""

MAX_IMAGE_VOXELS = 1 << 26
"""Rows x Columns: 8192 x 8192, four times the side length of the largest CT matrix in use."""

MAX_FRAMES = 1 << 14
"""NumberOfFrames of a multi-frame object."""

MAX_FILE_VOXELS = 1 << 32
"""Voxels of all frames of a file together: the maximum number of frames at 512 x 512."""

MAX_SEQUENCE_DEPTH = 32
"""Nesting depth of sequences; the deepest objects of the standard have about ten levels."""

MAX_INFLATED_BYTES = 1 << 28
"""Bytes of a data set after inflation. The deflated format cannot be read frame by frame."""

MAX_EXPANSION = 2
"""Largest ratio of compressed to uncompressed size; noise grows slightly when compressed."""

MIN_COMPRESSED_LIMIT = 1 << 16
"""Compressed bytes that are allowed for any image, however small."""

MAX_CPU_SECONDS = 60.0
"""CPU time in seconds for one file's header or one frame's values; time that other processes use does not count."""

MAX_MEMORY_BYTES = 2 << 30
"""Bytes of memory that a worker may allocate for one file or frame: 16 of the largest images."""

STATM = Path("/proc/self/statm")


@contextmanager
def limited(*, seconds: float | None = None, memory: int | None = None) -> Iterator[None]:
    """Limit the CPU time and the memory of this process within the context.

    When the time is used up, the kernel ends the process with SIGPROF, because a decoder written in C does not react to
    exceptions. Allocations beyond the memory limit fail (RLIMIT_AS). Use the context in a worker process that may die,
    see `Workers`, and in its main thread only.

    Args:
        seconds: CPU time in seconds; `MAX_CPU_SECONDS` by default.
        memory: Bytes of memory in addition to what the process holds already; `MAX_MEMORY_BYTES` by default.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    in_use = _address_space()
    if in_use:
        ceiling = in_use + (MAX_MEMORY_BYTES if memory is None else memory)
        resource.setrlimit(
            resource.RLIMIT_AS, (ceiling if soft == resource.RLIM_INFINITY else min(soft, ceiling), hard)
        )
    signal.setitimer(signal.ITIMER_PROF, MAX_CPU_SECONDS if seconds is None else seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    """Return the size in bytes of this process's address space; 0 if the kernel does not report it."""
    try:
        return int(STATM.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except OSError:
        return 0
