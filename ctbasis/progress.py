"""Progress of long work: a bar on a terminal, a log line now and then in a pod."""

from __future__ import annotations

import sys
import time
from collections.abc import Sized
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")

LOG_EVERY_SECONDS = 5.0


def progress(items: Iterable[T], what: str, *, total: int | None = None, unit: str = "item") -> Iterator[T]:
    """Yield `items` and show how far the consumer has come.

    Args:
        items: What is worked through; passed on unchanged.
        what: A short name of the work, such as `fetch` or `decode`.
        total: Number of items where `items` has no length.
        unit: What one item is, such as `file` or `slice`.
    """
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        yield from tqdm(items, desc=what, total=total, unit=unit, file=sys.stderr)
        return
    start = last = time.monotonic()
    done = 0
    for item in items:
        yield item
        done += 1
        now = time.monotonic()
        if now - last >= LOG_EVERY_SECONDS:
            last = now
            _say(what, done, total, unit, now - start)
    _say(what, done, total, unit, time.monotonic() - start)


def _say(what: str, done: int, total: int | None, unit: str, seconds: float) -> None:
    of = f"/{total}" if total is not None else ""
    sys.stderr.write(f"{what}: {done}{of} {unit}s, {seconds:.1f} s\n")
    sys.stderr.flush()
