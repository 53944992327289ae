"""Errors that a user can act on, and their way from the log of a step's process to the process that started it."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class CtbasisError(Exception):
    """An error that the user can correct; it says what was found, what was expected, the likely cause and the remedy.

    Args:
        found: What was found, with the tag, field, key or path by name. Never patient data.
        expected: What was expected instead.
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
        # Process pools pickle errors, and the default pickling loses keyword-only arguments.
        return (_rebuild, (type(self), self.found, self.expected, self.cause, self.remedy))


def _rebuild(kind: type[CtbasisError], found: str, expected: str, cause: str, remedy: str) -> CtbasisError:
    return kind(found, expected=expected, cause=cause, remedy=remedy)


class TransientError(Exception):
    """A failure that may disappear when the operation is tried again; its message contains no secret."""


LINE_PREFIX = "ctbasis: "
"""Start of every line that an error takes in a step's log; `error_in_log` finds the error by it."""


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Write a `CtbasisError` to standard error, each line with `LINE_PREFIX`, and exit with code 2.

    Any other exception passes through with its traceback.
    """
    try:
        yield
    except CtbasisError as error:
        first, *others = str(error).splitlines()
        sys.stderr.write(f"{LINE_PREFIX}{first}\n")
        for line in others:
            # `error_in_log` takes a line without indentation for the start of an error.
            sys.stderr.write(f"{LINE_PREFIX}  {line.removeprefix('  ')}\n")
        sys.stderr.flush()
        sys.exit(2)


def error_in_log(log: Iterable[str]) -> str:
    """Return the text of the last error that `exit_on_error` wrote to `log`, or an empty string if there is none."""
    text: list[str] = []
    for log_line in log:
        _, prefix, line = log_line.rstrip().partition(LINE_PREFIX)
        if not prefix:
            continue
        if not line.startswith(" "):
            text.clear()
        text.append(line)
    return "\n".join(text)
