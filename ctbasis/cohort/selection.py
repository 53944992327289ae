"""Selecting series by an expression on the columns of the inventory, such as `modality == "CT" and slices > 40`.

The expressions are those of the library rule-engine, which parses them itself: nothing is evaluated as Python. An
expression is still text from outside, and a regular expression may take exponential time. It is therefore parsed and
evaluated in a process of its own, with a limit on time and memory.
"""

from __future__ import annotations

import importlib
from functools import cache, partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from ctbasis.cohort.series_row import COLUMNS
from ctbasis.dicom.resource_limits import limited
from ctbasis.dicom.workers import WorkerCrashError, Workers
from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ctbasis.cohort.series_row import SeriesRow

MAX_CHARACTERS = 2000
"""Characters of an expression at most."""

MAX_SECONDS = 5.0
"""CPU time in seconds for one batch of series."""

MAX_MEMORY_BYTES = 256 << 20

BATCH = 256
"""Series that are sent to the process together."""

EXAMPLE = 'modality == "CT" and slices > 40 and kernel =~ "B.*f"'


class Selection:
    """An expression that selects rows of an inventory.

    A column is a variable. `==`, `!=`, `<`, `<=`, `>`, `>=`, `in`, `and`, `or`, `not` and arithmetic have their usual
    meaning; `=~` matches a regular expression at the start of a text, and `=~~` anywhere in it. A column that a series
    lacks is `null`: a comparison of its value by size does not select the series.

    Args:
        expression: The expression; empty to select every row.

    Raises:
        CtbasisError: The expression is too long, does not parse, names an unknown column, compares values that cannot
            be compared, or is no condition.
    """

    def __init__(self, expression: str) -> None:
        self._expression = expression.strip()
        if self._expression:
            with Workers(1) as workers:
                list(_evaluated(workers, self._expression, [[]]))

    def select(self, rows: Iterable[SeriesRow]) -> Iterator[SeriesRow]:
        """Yield the rows that the expression selects, in their order.

        Raises:
            CtbasisError: The expression takes too long, or too much memory.
        """
        if not self._expression:
            yield from rows
            return
        rows = iter(rows)
        with Workers(1) as workers:
            while batch := list(islice(rows, BATCH)):
                (selected,) = _evaluated(workers, self._expression, [[row.values() for row in batch]])
                yield from (row for row, chosen in zip(batch, selected, strict=True) if chosen)


def _evaluated(workers: Workers, expression: str, batches: list[list[dict[str, Any]]]) -> Iterator[list[bool]]:
    # The process inherits the imported library.
    importlib.import_module("rule_engine")
    try:
        yield from workers.map(partial(_matches, expression), batches)
    except WorkerCrashError:
        raise _refusal(
            expression,
            f"takes more than {MAX_SECONDS:g} s, or too much memory",
            "a regular expression with nested repetitions, a large power, or parentheses that are nested deeply",
        ) from None


def _matches(expression: str, rows: list[dict[str, Any]]) -> list[bool]:
    """Return whether each row, given by its columns, is selected. Run it in a process that may crash."""
    with limited(seconds=MAX_SECONDS, memory=MAX_MEMORY_BYTES):
        try:
            rule = _rule(expression)
        except (MemoryError, RecursionError) as error:
            raise _refusal(
                expression, f"cannot be parsed ({type(error).__name__})", "it is nested too deeply"
            ) from None
        return [_selects(rule, row) for row in rows]


@cache
def _rule(expression: str) -> Any:
    import rule_engine

    if len(expression) > MAX_CHARACTERS:
        raise _refusal(expression, f"has {len(expression)} characters", f"at most {MAX_CHARACTERS} are accepted")
    kinds = {str: rule_engine.DataType.STRING, int: rule_engine.DataType.FLOAT, float: rule_engine.DataType.FLOAT}
    types = {name: kinds[column.kind] for name, column in COLUMNS.items()}
    context = rule_engine.Context(type_resolver=rule_engine.type_resolver_from_dict(types))
    try:
        rule = rule_engine.Rule(expression, context=context)
    except (MemoryError, RecursionError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever the parser raises, it raises because of the expression
        message = getattr(error, "message", error)
        raise _refusal(expression, f"is not valid: {message}", _cause(error)) from None
    if rule.statement.expression.result_type is not rule_engine.DataType.BOOLEAN:
        raise _refusal(expression, "is no condition", "a comparison is missing")
    return rule


def _selects(rule: Any, row: dict[str, Any]) -> bool:
    """Return whether a rule selects a row. A condition that cannot be evaluated, as on an absent value, is not met."""
    from rule_engine.errors import EngineError

    try:
        return bool(rule.matches(row))
    except (EngineError, ArithmeticError):
        return False


def _cause(error: Any) -> str:
    suggestion = getattr(error, "suggestion", None)
    if suggestion:
        return f"{suggestion} is meant"
    if hasattr(error, "symbol_name"):
        return "it is no column of the inventory, or a text without quotes"
    return "a word or a quote is missing, or a text is compared with a number"


def _refusal(expression: str, found: str, cause: str) -> CtbasisError:
    return CtbasisError(
        f"the selection {expression[:200]!r} {found}",
        expected=f"a condition on the columns {', '.join(COLUMNS)}, such as {EXAMPLE}",
        cause=cause,
        remedy="correct the expression",
    )
