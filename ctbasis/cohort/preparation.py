"""What a cohort run does before anything is denoised: its plan is checked, the source listed, the jobs determined."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctbasis.cohort.inventory import open_inventory
from ctbasis.cohort.outcome import series_key
from ctbasis.cohort.plan import PlannedSeries, jobs_of, planned
from ctbasis.cohort.record import State
from ctbasis.cohort.selected_source import require_selection
from ctbasis.cohort.selection import Selection
from ctbasis.cohort.state import Known
from ctbasis.cohort.template import check_template
from ctbasis.dicom.deidentify.deidentification import Deidentification
from ctbasis.dicom.deidentify.pseudonyms import SALT
from ctbasis.errors import CtbasisError
from ctbasis.parameters import check
from ctbasis.sources.listed import write_list
from ctbasis.sources.zip_archive import ZIP_SUFFIX
from ctbasis.storage.objects import is_s3
from ctbasis.storage.paths import refuse_overlap

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ctbasis.cohort.plan import CohortPlan, Job
    from ctbasis.cohort.record import SeriesRecord
    from ctbasis.cohort.series_row import SeriesRow


@dataclass(frozen=True)
class ObjectList:
    """The list of the objects of a series.

    Attributes:
        uri: Its URI, see `ctbasis.sources.listed`.
        has_archives: Whether an object is an archive, which may hold other series too.
    """

    uri: str
    has_archives: bool = False


@dataclass(frozen=True)
class Assignment:
    """A job with what the output holds of its series.

    Attributes:
        job: The job.
        objects: The list of the objects of each series.
        known: What the output holds of each series; None where it has no result.
    """

    job: Job
    objects: tuple[ObjectList, ...]
    known: tuple[Known | None, ...]


def checked(plan: CohortPlan) -> CohortPlan:
    """Check everything that needs no listing; return the plan with absolute places.

    Raises:
        CtbasisError: A parameter is out of bounds, or does not go with another one.
    """
    check(dict(plan.parameters))
    Selection(plan.where)
    deidentified = plan.deidentification.deidentify
    check_template(plan.template, deidentified=deidentified)
    if deidentified and (identity := identity_of(plan)) and not identity.pseudonyms.given:
        raise CtbasisError(
            f"headers are to be de-identified, and {SALT} is not set",
            expected="a salt, so that a re-run gives each series the same pseudonyms and the same folder",
            remedy=f"export {SALT}=$(python -c 'import secrets; print(secrets.token_hex())'), and keep it as a secret",
        )
    if plan.basis_from and plan.svd.mode != "patch":
        raise CtbasisError(
            "one basis for all series is asked for in global mode",
            expected="patch mode: the slices of other patients seldom fit a basis of slices",
            remedy="leave out --basis-from, or add --mode patch",
        )
    if plan.basis_from and plan.svd.basis:
        raise CtbasisError("a stored basis is given, and one is to be learned", expected="--basis or --basis-from")
    out = plan.out.rstrip("/") if is_s3(plan.out) else str(Path(plan.out).resolve())
    if not is_s3(out):
        refuse_overlap(Path(out), [plan.source, plan.svd.basis])
    return replace(plan, out=out)


def identity_of(plan: CohortPlan) -> Deidentification | None:
    """Return the de-identification of a plan; None if headers stay as they are."""
    given = plan.deidentification
    return Deidentification.of(given.retain) if given.deidentify else None


def inventoried(
    plan: CohortPlan, folder: Path, *, state: Path | None = None
) -> tuple[list[SeriesRow], list[PlannedSeries], dict[str, ObjectList]]:
    """Return the rows of the selection, the series to denoise, and the list of objects of each by its folder.

    The inventory is closed before anything runs: one process at a time uses the index of a source.

    Args:
        plan: The plan.
        folder: Folder for the lists.
        state: Index of the inventory, see `open_inventory`.

    Raises:
        CtbasisError: The source cannot be listed, nothing is selected, or two series would share a folder.
    """
    with open_inventory(plan.source, state=state, deidentification=identity_of(plan)) as inventory:
        inventory.update()
        rows = list(inventory.rows(plan.where))
        require_selection(inventory, [row for row in rows if row.usable], plan.where)
        series = planned(((row, inventory.objects(row)) for row in rows if row.usable), plan.template)
        lists = folder / "lists"
        lists.mkdir()
        objects = {}
        for number, one in enumerate(series):
            entries = list(inventory.objects(one.row))
            uri = write_list(lists / f"{number}.json", inventory.source, entries)
            objects[one.folder] = ObjectList(uri, any(entry.key.lower().endswith(ZIP_SUFFIX) for entry in entries))
    return rows, series, objects


def assignments(
    plan: CohortPlan,
    series: Sequence[PlannedSeries],
    objects: Mapping[str, ObjectList],
    settings: str,
    outcomes: dict[str, SeriesRecord],
) -> Iterator[Assignment]:
    """Yield the jobs with a series that is missing or whose listing changed; note the others as unchanged.

    Args:
        plan: The plan.
        series: The series of the cohort.
        objects: The list of the objects of each series, by its folder.
        settings: Digest of the settings.
        outcomes: The records of the series that are unchanged are added, by `series_key`.
    """
    for job in jobs_of(series, join=plan.joins_series):
        known = tuple(Known.of(plan.out, one) for one in job.series)
        if all(one is not None and (one.stamp, one.settings) == (job.stamp, settings) for one in known):
            for one, member in zip(known, job.series, strict=True):
                if one is not None:
                    outcomes[series_key(member.row)] = replace(
                        one.record, state=State.UNCHANGED, row=member.row, thumbnail=b""
                    )
            continue
        yield Assignment(job, tuple(objects[one.folder] for one in job.series), known)
