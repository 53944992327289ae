"""Errors that a user can act on, and their way from the log of a step's process to the process that started it."""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from ctbasis.printable import printable, say

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PARTS = ("expected", "likely cause", "remedy")
"""Headings of the parts of an error's text after what was found, in their order."""

DETAIL = "    | "
"""Start of a line of `CtbasisError.details`. No part of the text starts so, so a detail cannot be taken for a part."""


class CtbasisError(Exception):
    """An error that the user can correct; it says what was found, what was expected, the likely cause and the remedy.

    Every text may quote names from outside: each becomes one line of printable characters.

    Args:
        found: What was found, with the tag, field, key or path by name. Never patient data.
        expected: What was expected instead.
        cause: The likely cause.
        remedy: What the user can do now.
        details: Further lines, such as the end of a log or a list of faults.
    """

    def __init__(
        self, found: str, *, expected: str = "", cause: str = "", remedy: str = "", details: Iterable[str] = ()
    ) -> None:
        self.found = printable(found)
        self.expected = printable(expected)
        self.cause = printable(cause)
        self.remedy = printable(remedy)
        self.details = tuple(printable(line.expandtabs()) for line in details)
        super().__init__(str(self))

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Return the error with the text `text`, as `str` of another error or `error_in_log` gives it."""
        found, *others = text.split("\n")
        parts = dict.fromkeys(PARTS, "")
        details = []
        for line in others:
            if line.startswith(DETAIL):
                details.append(line.removeprefix(DETAIL))
                continue
            heading, separator, value = line.strip().partition(": ")
            if separator and heading in parts:
                parts[heading] = value
            else:
                details.append(line)
        expected, cause, remedy = parts.values()
        return cls(found, expected=expected, cause=cause, remedy=remedy, details=details)

    def __str__(self) -> str:
        values = zip(PARTS, (self.expected, self.cause, self.remedy), strict=True)
        lines = [self.found, *(f"  {heading}: {value}" for heading, value in values if value)]
        return "\n".join([*lines, *(f"{DETAIL}{line}" for line in self.details)])

    def __reduce__(self) -> tuple[object, ...]:
        # Process pools pickle errors, and the default pickling loses keyword-only arguments.
        return (_rebuild, (type(self), self.found, self.expected, self.cause, self.remedy, self.details))


def _rebuild(
    kind: type[CtbasisError], found: str, expected: str, cause: str, remedy: str, details: tuple[str, ...]
) -> CtbasisError:
    return kind(found, expected=expected, cause=cause, remedy=remedy, details=details)


class UnreachableError(CtbasisError):
    """A server did not answer, or broke off its answers; the same operation may succeed once the server is back."""


class TransientError(Exception):
    """A failure that may disappear when the operation is tried again; its message contains no secret.

    Attributes:
        retry_after: Seconds after which the server asks to try again; None if it does not say.

    Args:
        reason: What failed.
        retry_after: As the attribute.
    """

    def __init__(self, reason: str, *, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


LINE_PREFIX = "ctbasis: "
"""Start of every line that an error takes in a step's log; `error_in_log` finds the error by it."""

FORGED = re.compile(rf"^(\s*){re.escape(LINE_PREFIX)}", re.MULTILINE)
"""A line of another exception's text that would be taken for a line of a `CtbasisError`."""


@contextmanager
def exit_on_error() -> Iterator[None]:
    """Write a `CtbasisError` to standard error, each line with `LINE_PREFIX`, and exit with code 2.

    Any other exception passes through with its traceback. A line of its text that starts with `LINE_PREFIX`, which a
    name from outside may contain, is marked, so that `error_in_log` does not take it for an error.
    """
    try:
        yield
    except CtbasisError as error:
        say(*(f"{LINE_PREFIX}{line}" for line in str(error).split("\n")))
        sys.exit(2)
    except Exception as error:
        _mark_forged_lines(error)
        raise


def _mark_forged_lines(error: BaseException | None) -> None:
    """Mark the lines that start with `LINE_PREFIX` in the arguments of `error` and of those before it, in place."""
    while error is not None:
        error.args = tuple(FORGED.sub(r"\1> \g<0>", arg) if isinstance(arg, str) else arg for arg in error.args)
        error = error.__cause__ or error.__context__


def error_in_log(log: Iterable[str]) -> str:
    """Return the text of the last error that `exit_on_error` wrote to `log`, or an empty string if there is none.

    Only lines that start with `LINE_PREFIX`, indented or not, are lines of an error.
    """
    text: list[str] = []
    for log_line in log:
        line = log_line.strip()
        if not line.startswith(LINE_PREFIX):
            continue
        line = line.removeprefix(LINE_PREFIX)
        if not line.startswith(" "):
            text.clear()
        text.append(line)
    return "\n".join(text)
