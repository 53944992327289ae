"""Reading a listing page by page: the same bounds and retries for every server that lists objects."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, TypeVar

from ctbasis.errors import CtbasisError, UnreachableError
from ctbasis.sources import retries
from ctbasis.sources.retries import repeat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

T = TypeVar("T")

MAX_EMPTY_PAGES = 1000
"""Consecutive pages of a listing without an object, at most. A server may send a few, while it skips deleted keys."""


def pages(
    page: Callable[[str], tuple[Sequence[T], str]],
    *,
    invalid: Callable[[str], CtbasisError],
    unreachable: Callable[[str], UnreachableError],
) -> Iterator[T]:
    """Yield the entries of a listing as its pages arrive.

    Args:
        page: Requests a page by its token, which is empty for the first page. Returns the entries, and the token of the
            next page, which is empty after the last one.
        invalid: Gives the error for an answer that is no listing, from what is wrong with it.
        unreachable: Gives the error for a server that does not answer, from the reason.

    Raises:
        CtbasisError: The listing does not end, the server does not answer, or `page` raises it.
    """
    token, empty = "", 0
    while True:
        entries, following = repeat(partial(page, token), unreachable, attempts=retries.LISTING_ATTEMPTS)
        empty = 0 if entries else empty + 1
        yield from entries
        if not following:
            return
        if following == token:
            raise invalid("it does not end: a continuation token is repeated")
        if empty > MAX_EMPTY_PAGES:
            raise invalid(f"it does not end: {MAX_EMPTY_PAGES} pages hold no object")
        token = following


def object_changed(place: str) -> CtbasisError:
    """Return the error for an object that was replaced or deleted after it had been listed.

    Args:
        place: Where the object is: the bucket, the container or the server, by name.
    """
    return CtbasisError(
        f"an object of {place} was replaced or deleted after it had been listed",
        expected="a source that does not change during the fetch",
        cause="somebody writes to the source",
        remedy="run the step again when the source is complete",
    )
