"""The objects of one series, fetched, and the digest of their content.

A zip archive is one object. The inventory reads its members where they are; a fetch unpacks all of them, and those of
other series are then removed.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pydicom

from ctbasis.dicom.deidentify.deidentification import Deidentification
from ctbasis.sources.fetch import fetch
from ctbasis.sources.file_names import OWN_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ctbasis.parameters import DeidentificationPlan


@dataclass(frozen=True)
class SeriesName:
    """What names a series in the inventory: pseudonyms, with de-identification.

    Attributes:
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
    """

    study: str
    series: str


def fetch_series(
    source: str, folder: Path, plan: DeidentificationPlan, *, only: SeriesName | None = None
) -> tuple[str, float]:
    """Fetch the objects of one series.

    Args:
        source: A list of objects, `objects:///...`.
        folder: Folder for them.
        plan: De-identification; with it, names of files are replaced by numbers, see `ctbasis.sources.fetch`.
        only: Series whose files are kept, where the objects are archives; None keeps all.

    Returns:
        The digest of their content, whatever their names and dates, and the seconds that it took.

    Raises:
        CtbasisError: See `ctbasis.sources.fetch`.
    """
    start = time.monotonic()
    fetch(source, folder, opaque=plan.deidentify)
    if only is not None:
        _remove_others(folder, only, Deidentification.of(plan.retain) if plan.deidentify else None)
    return content_of(folder), time.monotonic() - start


def content_of(folder: Path) -> str:
    """Return the digest of the content of fetched files, whatever their names and dates."""
    contents = []
    for path in _files(folder):
        with path.open("rb") as file:
            contents.append(hashlib.file_digest(file, "sha256").hexdigest())
    return hashlib.sha256("".join(sorted(contents)).encode()).hexdigest()


def _remove_others(folder: Path, only: SeriesName, identity: Deidentification | None) -> None:
    """Remove the DICOM files of other series; a file that cannot be read stays, and the matrix step sets it aside."""
    for path in _files(folder):
        try:
            tags = ["StudyInstanceUID", "SeriesInstanceUID"]
            header = pydicom.dcmread(path, specific_tags=tags, stop_before_pixels=True, force=True)
            study, series = (str(header.get(tag, "")).strip() for tag in tags)
        except Exception:  # noqa: BLE001, S112 - pydicom raises various exceptions of damaged files
            continue
        if identity is not None:
            study, series = identity.uid(study), identity.uid(series)
        if SeriesName(study, series) != only and series:
            path.unlink()


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.startswith(OWN_PREFIX):
            yield path
