"""Progress of long work: a progress bar on a terminal, and a log line every few seconds elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sized
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

from ctbasis.printable import say

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

LOG_EVERY_SECONDS = 5.0


def progress(items: Iterable[T], label: str, *, total: int | None = None, unit: str = "item") -> Iterator[T]:
    """Yield `items` unchanged and show on standard error how many of them the consumer has processed.

    Args:
        items: The items of work.
        label: Short name of the work, such as `fetch` or `decode`.
        total: Number of items, if `items` has no length.
        unit: Name of one item, such as `file` or `slice`.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        yield from tqdm(items, desc=label, total=total, unit=unit, file=sys.stderr)
        return
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= LOG_EVERY_SECONDS:
            last = now
            _log(label, done, total, unit, now - start)
    _log(label, done, total, unit, time.monotonic() - start)


def _log(label: str, done: int, total: int | None, unit: str, seconds: float) -> None:
    of_total = f"/{total}" if total is not None else ""
    say(f"{label}: {done}{of_total} {unit}s, {seconds:.1f} s")
