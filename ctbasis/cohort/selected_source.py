"""The objects of the series that an expression selects, as a source of their own."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from ctbasis.cohort.inventory import open_inventory
from ctbasis.cohort.selection import Selection
from ctbasis.errors import CtbasisError
from ctbasis.printable import say
from ctbasis.sources.listed import write_list
from ctbasis.storage.working_folder import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctbasis.cohort.inventory import Inventory
    from ctbasis.cohort.series_row import SeriesRow
    from ctbasis.dicom.deidentify.deidentification import Deidentification
    from ctbasis.sources.source import RemoteObject


@contextmanager
def selected_source(source: str, where: str, deidentification: Deidentification | None = None) -> Iterator[str]:
    """Yield the URI of a source that holds only the series which an expression selects.

    Args:
        source: A path or a URI.
        where: The expression, see `Selection`.
        deidentification: The expression then refers to the de-identified headers.

    Raises:
        CtbasisError: The expression is not valid or selects no series that can be denoised; or the source is refused.
    """
    Selection(where)
    with scratch_folder("ctbasis-inventory") as folder:
        with open_inventory(source, deidentification=deidentification) as inventory:
            inventory.update()
            rows = [row for row in inventory.rows(where) if row.usable]
            require_selection(inventory, rows, where)
            slices = sum(row.slices for row in rows)
            say(f"selected: {len(rows)} series of {slices} slices")
            listed = write_list(folder / "selected.json", inventory.source, _objects(inventory, rows))
        yield listed


def require_selection(inventory: Inventory, rows: list[SeriesRow], where: str) -> None:
    """Raise an error if no series is selected.

    Raises:
        CtbasisError: `rows` is empty. The message says how many series there are, and what is not used.
    """
    if rows:
        return
    total = usable = 0
    reasons: list[str] = []
    for row in inventory.rows():
        total += 1
        usable += row.usable
        if row.refused and len(reasons) < 5:  # noqa: PLR2004 - as many as fit into a message
            reasons.append(row.refused)
    if usable:
        raise CtbasisError(
            f"the selection {where!r} selects none of the {usable} series that can be denoised",
            expected="a condition that at least one series meets",
            cause="a value is spelt differently in the headers, or is absent from them",
            remedy="see the values with `ctbasis inventory`",
        )
    raise CtbasisError(
        f"the source holds no series that can be denoised, among {total} series",
        expected="at least one axial CT series",
        cause="the source is another folder or prefix, or another modality",
        remedy="see `ctbasis inventory`",
        details=reasons or [f"{entry.objects} x {entry.reason}" for entry in inventory.others()[:5]],
    )


def _objects(inventory: Inventory, rows: list[SeriesRow]) -> Iterator[RemoteObject]:
    """Yield the objects of series, each once: an archive may hold several series."""
    seen = set()
    for row in rows:
        for entry in inventory.objects(row):
            if entry.key not in seen:
                seen.add(entry.key)
                yield entry
