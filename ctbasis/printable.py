"""The place where text leaves the program: names from outside are made printable, and lines are written to terminals.

File names, object keys, UIDs, header values and URIs come from outside. A newline in one of them forges a line of a
log, an escape sequence rewrites a terminal, and a bidirectional override shows another text than the one that is
stored. All messages pass through this module, so that a message cannot forget it: `say` writes lines, `CtbasisError`
makes its texts printable, and the pages apply `page_value` to every value. No other module writes to standard output
or standard error.
"""

from __future__ import annotations

import sys
import unicodedata
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from collections.abc import Iterable

INVISIBLE = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0")
"""Characters that have no ink although their category is that of a letter, a mark or a symbol."""

INVISIBLE_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Unicode categories of controls, format characters (bidirectional overrides, zero width), lone surrogates, private
use, unassigned code points, and separators of lines and paragraphs."""

FORMULA = ("=", "+", "-", "@")
"""First characters of a text that a spreadsheet takes for a formula."""

SHORT_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: object) -> str:
    r"""Return `text` as one line of visible characters and spaces; other characters are written as escape sequences.

    Letters of every script stay as they are. The escape sequences are those of Python: `\n`, `\x1b`, `\u202e`. A
    backslash in `text` stays a single backslash.

    Args:
        text: The text, or an object that is converted to text.
    """
    line = str(text)
    if line.isascii() and line.isprintable():
        return line
    return "".join(map(_visible, line))


def _visible(character: str) -> str:
    hidden = unicodedata.category(character) in INVISIBLE_CATEGORIES or character in INVISIBLE
    return _escaped(character) if hidden else character


def _escaped(character: str) -> str:
    code = ord(character)
    if character in SHORT_ESCAPES:
        return SHORT_ESCAPES[character]
    if code <= 0xFF:  # noqa: PLR2004 - the escape sequences of Python have 2, 4 or 8 hexadecimal digits
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"  # noqa: PLR2004 - the same


def csv_cell(value: Any) -> Any:
    """Return a value of a CSV table: text printable, and with an apostrophe before what a spreadsheet would calculate.

    Args:
        value: Text, a number or None, which becomes an empty cell.
    """
    if not isinstance(value, str):
        return value
    shown = printable(value)
    return f"'{shown}" if shown.lstrip().startswith(FORMULA) else shown


def say(*lines: object, to: TextIO | None = None) -> None:
    """Write lines to a terminal or a log, each made printable, and flush.

    Args:
        lines: The lines. Each becomes exactly one line; a newline in it becomes an escape sequence.
        to: The stream; None is standard error.
    """
    stream = sys.stderr if to is None else to
    stream.write("".join(f"{printable(line)}\n" for line in lines))
    stream.flush()


def show(*lines: object) -> None:
    """Write lines to standard output: the results that a user asked for; see `say`."""
    say(*lines, to=sys.stdout)


def printable_markdown(lines: Iterable[str]) -> str:
    """Return lines of Markdown as a text; a newline within a line does not start another line."""
    return "\n".join(printable(line) for line in lines)


def page_value(value: Any) -> Any:
    """Return a value of a page's template, printable if it is text; `finalize` of a Jinja environment.

    Text that has already been rendered as HTML has the method `__html__` and is returned unchanged.
    """
    return printable(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
