"""What became of the series of a cohort: their records in the order of the inventory, and the summary of them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctbasis.cohort.plan import PlannedSeries, digest
from ctbasis.cohort.record import SeriesRecord, State
from ctbasis.cohort.state import Known
from ctbasis.cohort.summary import SUMMARY, write_summary
from ctbasis.errors import CtbasisError
from ctbasis.storage.objects import is_s3
from ctbasis.storage.publication import write_whole
from ctbasis.storage.working_folder import scratch_folder

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ctbasis.cohort.plan import CohortPlan
    from ctbasis.cohort.series_row import SeriesRow

DONE = (State.DONE, State.UNCHANGED)

UNNAMED = "it could not be fetched or denoised; the output of the run says why"
"""Reason of a failed series in the summary of a de-identified cohort: the error may name files of the source, and a
file's name may be that of a patient."""


@dataclass(frozen=True)
class CohortDone:
    """A cohort run that has ended.

    Attributes:
        out: The output.
        records: The record of each series, in the order of the inventory.
        seconds: The duration of the whole run in seconds.
    """

    out: str
    records: tuple[SeriesRecord, ...]
    seconds: float

    @property
    def states(self) -> Counter[State]:
        """Number of series by their state."""
        return Counter(record.state for record in self.records)

    @property
    def is_partial(self) -> bool:
        """Whether a series failed, or was not run."""
        return any(record.state in {State.FAILED, State.NOT_RUN} for record in self.records)

    def require_any(self) -> None:
        """Check that there is a result at all.

        Raises:
            CtbasisError: Series failed or were not run, and none is in place.
        """
        if self.is_partial and not any(self.states[state] for state in DONE):
            raise CtbasisError(
                "no series could be denoised",
                expected="at least one",
                details=[record.reason for record in self.records if record.state is State.FAILED][:5],
                remedy="see the reasons in summary.html",
            )

    def __str__(self) -> str:
        return ", ".join(f"{self.states[state]} {state}" for state in State if self.states[state])


def series_key(row: SeriesRow) -> str:
    """Return what names a series: two patients or studies may share a SeriesInstanceUID."""
    return digest([row.patient, row.study, row.series])


def in_order(rows: Sequence[SeriesRow], outcomes: Mapping[str, SeriesRecord]) -> list[SeriesRecord]:
    """Return a record for each series of the inventory, in its order.

    Args:
        rows: The series of the inventory.
        outcomes: The records of those that can be denoised, by `series_key`.
    """
    return [
        outcomes[series_key(row)] if row.usable else SeriesRecord(row=row, state=State.SET_ASIDE, reason=row.refused)
        for row in rows
    ]


def summarize(plan: CohortPlan, records: Sequence[SeriesRecord]) -> None:
    """Write the summary to the output; the thumbnails are read from the results, so that a long run holds none.

    Args:
        plan: The plan.
        records: The records of all series.

    Raises:
        CtbasisError: The output cannot be written.
    """
    facts = {
        "Source": "not named, because headers are de-identified" if plan.deidentification.deidentify else plan.source,
        "Selection": plan.where or "all series",
        "Mode": plan.svd.mode,
        "De-identified": "yes" if plan.deidentification.deidentify else "no",
    }
    if plan.basis_from:
        facts["Basis"] = f"one, learned on {plan.basis_from} series"
    whole = publishable(plan, [_as_stored(plan, record) for record in records])
    if not is_s3(plan.out):
        write_summary(whole, Path(plan.out), facts=facts)
        return
    with scratch_folder("ctbasis-summary") as scratch:
        write_summary(whole, scratch, facts=facts)
        for name in SUMMARY:
            write_whole(f"{plan.out}/{name}", (scratch / name).read_bytes())


def publishable(plan: CohortPlan, records: Iterable[SeriesRecord]) -> list[SeriesRecord]:
    """Return records as they may be published: with de-identification, without the reasons of errors."""
    hidden = plan.deidentification.deidentify
    return [replace(one, reason=UNNAMED) if hidden and one.state is State.FAILED else one for one in records]


def _as_stored(plan: CohortPlan, record: SeriesRecord) -> SeriesRecord:
    """Return the record with all that the result states, among it the thumbnail."""
    if record.state not in DONE:
        return record
    known = Known.of(plan.out, PlannedSeries(record.row, record.folder))
    return record if known is None else replace(known.record, state=record.state, row=record.row)
