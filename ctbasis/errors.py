"""The one error that a user is meant to read, and how it crosses from a step's process to whoever started it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class CtbasisError(Exception):
    """Something the user can mend: says what was found, what was expected, the likely cause, and the remedy.

    Args:
        found: What was there, with the tag, field, key or path by name. Never patient data.
        expected: What should have been there.
        cause: The likely cause.
        remedy: What the user can do now.
    """

    def __init__(self, found: str, *, expected: str = "", cause: str = "", remedy: str = "") -> None:
        self.found = found
        self.expected = expected
        self.cause = cause
        self.remedy = remedy
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [self.found]
        if self.expected:
            parts.append(f"expected: {self.expected}")
        if self.cause:
            parts.append(f"likely cause: {self.cause}")
        if self.remedy:
            parts.append(f"remedy: {self.remedy}")
        return "\n  ".join(parts)

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling, and these cross process pools.
        return (_rebuild, (type(self), self.found, self.expected, self.cause, self.remedy))


def _rebuild(kind: type[CtbasisError], found: str, expected: str, cause: str, remedy: str) -> CtbasisError:
    return kind(found, expected=expected, cause=cause, remedy=remedy)


class TransientError(Exception):
    """A failure that may pass; the message holds no secret."""


LINE_PREFIX = "ctbasis: "
"""How each line of a refusal begins in a step's log, so that whoever started the step can find it and show it."""


@contextmanager
def refusing() -> Iterator[None]:
    """Turn a `CtbasisError` into marked lines on standard error and exit code 2; anything else stays a traceback."""
    try:
        yield
    except CtbasisError as error:
        first, *others = str(error).splitlines()
        sys.stderr.write(f"{LINE_PREFIX}{first}\n")
        for line in others:
            # Indented, so that `refusal_in` can tell where a refusal begins.
            sys.stderr.write(f"{LINE_PREFIX}  {line.removeprefix('  ')}\n")
        sys.stderr.flush()
        sys.exit(2)


def refusal_in(log: Iterable[str]) -> str:
    """Return the text of the last refusal that `refusing` wrote into `log`, or an empty string."""
    refusal: list[str] = []
    for line in log:
        _, marked, text = line.rstrip().partition(LINE_PREFIX)
        if not marked:
            continue
        if not text.startswith(" "):
            refusal.clear()
        refusal.append(text)
    return "\n".join(refusal)
