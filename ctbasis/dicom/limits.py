"""What one file may cost before it is refused: checked before memory is taken, and enforced by the kernel behind that.

A file that is larger than any of these is no CT that this pipeline can use, or was made to do harm.
"""

from __future__ import annotations

import resource
import signal
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST_HEADER = 64 << 20
"""Bytes before PixelData; a header of ten thousand frames takes 40 MiB."""

LARGEST_KEPT = 1 << 21
"""Bytes of one slice's header that are kept, its bulk dropped; the usual one has 5 KiB."""

LARGEST_IMAGE = 1 << 26
"""Rows x Columns: 8192 x 8192, four times the side of the largest CT matrix there is."""

MOST_FRAMES = 1 << 14
"""Frames of a multi-frame object."""

MOST_VOXELS = 1 << 32
"""Of all frames of a file together: so many frames of 512 x 512 as may be."""

DEEPEST = 32
"""Sequences within sequences; the deepest of the standard's objects has about ten."""

LARGEST_INFLATED = 1 << 28
"""Bytes that a deflated data set may inflate to: the format has no frames that could be read one by one."""

EXPANSION = 2
"""By how much compressed pixels may be larger than the same uncompressed: noise grows a little when compressed."""

EXPANSION_FLOOR = 1 << 16
"""Bytes that compressed pixels may always take, however small the image."""

CPU_SECONDS = 60.0
"""Of processor time for one file's header or one frame's values: an hour-glass that stands still while others run."""

MEMORY = 2 << 30
"""Bytes that a worker may take for one file or frame beyond what it held before: 16 of the largest images."""

STATM = Path("/proc/self/statm")


@contextmanager
def limited(*, seconds: float | None = None, memory: int | None = None) -> Iterator[None]:
    """Let this process use so much for what happens inside, at most: `CPU_SECONDS` and `MEMORY` by default.

    Beyond the time the kernel ends the process (SIGPROF), for a decoder in C hears no exception; beyond the memory
    allocations fail (RLIMIT_AS). To be used in a worker that may be lost, see `Workers`. Main thread only.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = _address_space()
    if held:
        ceiling = held + (MEMORY if memory is None else memory)
        resource.setrlimit(
            resource.RLIMIT_AS, (ceiling if soft == resource.RLIM_INFINITY else min(soft, ceiling), hard)
        )
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS if seconds is None else seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def _address_space() -> int:
    """Return the bytes of address space that this process holds; 0 where the kernel does not say."""
    try:
        return int(STATM.read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    except OSError:
        return 0
