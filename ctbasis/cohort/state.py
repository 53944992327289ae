"""What a cohort's output says about earlier runs into it: with which settings, and which series are in place."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from ctbasis.cohort.plan import OWN, digest
from ctbasis.cohort.record import SeriesRecord
from ctbasis.cohort.results import SERIES
from ctbasis.dicom.deidentify.pseudonyms import Pseudonyms
from ctbasis.errors import CtbasisError
from ctbasis.storage.array_layout import ROOT
from ctbasis.storage.objects import is_s3, open_objects
from ctbasis.storage.publication import read_published, write_whole

if TYPE_CHECKING:
    from ctbasis.cohort.plan import CohortPlan, Job, PlannedSeries

COHORT = "cohort.json"
"""File of the output that states the source and the settings."""

BASIS = f"{OWN}/basis"
"""Where the output holds the basis that all series share."""

OURS = "ctbasis"


@dataclass(frozen=True)
class Known:
    """What the output holds of a series.

    Attributes:
        record: Its record.
        stamp: Digest of what the listing said about the objects of its job.
        content: Digest of the content of the objects of its job.
        settings: Digest of the settings.
        document: The whole JSON.
    """

    record: SeriesRecord
    stamp: str
    content: str
    settings: str
    document: dict[str, Any]

    @classmethod
    def of(cls, out: str, series: PlannedSeries) -> Self | None:
        """Return what `out` holds of a series; None if it has no complete result, or another version wrote it."""
        stored = read_published(f"{out}/{series.folder}", SERIES)
        if stored is None:
            return None
        try:
            document = json.loads(stored)
            digests = {name: str(document[name]) for name in ("stamp", "content", "settings")}
            return cls(SeriesRecord.from_json(document["record"]), **digests, document=document)
        except (ValueError, KeyError, TypeError, CtbasisError):
            return None

    def stamped(self, out: str, stamp: str) -> None:
        """Write another stamp: the listing changed, as by a copy of the source, and the content did not."""
        document = {**self.document, "stamp": stamp}
        # A stamp has a constant length, so the size that the list of files states stays true.
        write_whole(f"{out}/{self.record.folder}/{SERIES}", f"{json.dumps(document)}\n".encode())


def known_by(job: Job, settings: str) -> dict[str, str]:
    """Return the digests by which a later run knows the series of a job, without that of the content."""
    return {"stamp": job.stamp, "settings": settings}


def settings_digest(plan: CohortPlan, basis: str) -> str:
    """Return the digest of the settings and of the content of the stored basis, if there is one.

    Args:
        plan: The plan.
        basis: URI of the basis that the series get; empty if each learns its own.
    """
    root = open_objects(basis).read(ROOT) or b"" if basis else b""
    settings = plan.settings()
    # The same basis at another place is the same basis.
    settings["parameters"] = {**settings["parameters"], "basis": ""}
    return digest([settings, digest(root.decode(errors="replace")), _salt(plan)])


def check_settings(plan: CohortPlan, *, again: bool) -> bool:
    """Compare the settings of a plan with those of earlier runs into its output.

    Args:
        plan: The plan.
        again: Whether other settings than before are meant.

    Returns:
        Whether the output has results of other settings.

    Raises:
        CtbasisError: They are other settings and `again` is false, or the output belongs to another program.
    """
    before = _read(plan.out)
    changed = [] if before is None else _differences(before, _stated(plan))
    if changed and not again:
        raise CtbasisError(
            f"{plan.out} holds a cohort with other settings",
            expected="the settings of the run before, or another --out",
            details=changed,
            cause="an option was added, left out or changed, or ctbasis has another version",
            remedy="repeat the command of the run before, choose another --out, or add --again: it denoises again what "
            "the other settings concern",
        )
    return bool(changed)


def note_settings(plan: CohortPlan) -> None:
    """Write the settings of a plan to its output.

    Raises:
        CtbasisError: The output cannot be written.
    """
    write_whole(f"{plan.out}/{COHORT}", f"{json.dumps(_stated(plan), indent=1)}\n".encode())


def _stated(plan: CohortPlan) -> dict[str, Any]:
    own = {"written_by": OURS, "source": plan.source, "template": plan.template, "salt": _salt(plan)}
    return {**own, **plan.settings()}


def _read(out: str) -> dict[str, Any] | None:
    stored = open_objects(out).read(COHORT)
    if stored is None:
        _refuse_foreign(out)
        return None
    try:
        document = json.loads(stored)
        if document["written_by"] == OURS:
            return dict(document)
    except (ValueError, KeyError, TypeError):
        pass
    raise CtbasisError(
        f"{out} holds a {COHORT} that ctbasis did not write",
        expected="a new or empty folder, or the output of an earlier cohort run",
        remedy="choose another --out",
    )


def _refuse_foreign(out: str) -> None:
    """Refuse an output that holds anything, but no cohort.

    Raises:
        CtbasisError: There is a file or an object.
    """
    names = open_objects(out).sizes() if is_s3(out) else _entries(out)
    found = next((name for name in names if not name.startswith(".")), None)
    if found is not None:
        raise CtbasisError(
            f"{out} is not empty: it holds {found}",
            expected=f"a new or empty folder or prefix, or the output of an earlier cohort run, which has a {COHORT}",
            remedy="choose another --out",
        )


def _entries(folder: str) -> list[str]:
    path = Path(folder)
    return sorted(one.name for one in path.iterdir()) if path.is_dir() else []


def _differences(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return one line for each setting that differs."""
    one = {**before, **dict(before.get("parameters") or {})}
    other = {**now, **now["parameters"]}
    names = sorted((one.keys() | other.keys()) - {"parameters", "written_by"})
    lines = []
    for name in names:
        if one.get(name) != other.get(name):
            shown = "another salt" if name == "salt" else f"{one.get(name)!r} before, {other.get(name)!r} now"
            lines.append(f"{name}: {shown}")
    return lines


def _salt(plan: CohortPlan) -> str:
    """Return a token of the salt, by which another salt is noticed; empty without de-identification."""
    return Pseudonyms.of_environment().token("cohort") if plan.deidentification.deidentify else ""
