"""The outcome of one series of a cohort: a row of the summary."""

from __future__ import annotations

import json
import math
from base64 import b64decode, b64encode
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Self

from ctbasis.cohort.series_row import SeriesRow
from ctbasis.errors import CtbasisError
from ctbasis.steps.notes import defect

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

METRICS = "metrics.json"


class State(StrEnum):
    """What became of a series."""

    DONE = "done"
    """It was denoised in this run."""
    UNCHANGED = "unchanged"
    """An earlier run denoised it, and neither the series nor a parameter has changed since."""
    FAILED = "failed"
    """It could not be denoised; the reason says why."""
    SET_ASIDE = "set aside"
    """Its headers say that it cannot be denoised: it is no CT, or it has too few slices, for example."""
    NOT_RUN = "not run"
    """The run ended before its turn."""


@dataclass(frozen=True, kw_only=True)
class SeriesRecord:
    """The outcome of one series.

    Everything in it may be published as freely as the outputs: with de-identification, `row` holds the pseudonyms, and
    the caller makes `reason` and `warnings` free of names of the source.

    Attributes:
        row: The series, as the inventory describes it.
        state: What became of it.
        reason: Why it is not denoised, one line; empty if it is.
        mode: `patch` or `global`; empty if it is not denoised.
        seconds: Wall-clock time; None if it was not run.
        noise_before: Noise in soft tissue of the input, HU; None if it is not known.
        noise_after: The same of the denoised series.
        warnings: Warnings of its report.
        folder: Folder of its outputs, relative to that of the cohort; empty if there is none.
        report: The page of its report, relative to the folder of the cohort; empty if there is none.
        thumbnail: One slice before and after denoising and the removed component, as WebP; may be empty.
    """

    row: SeriesRow
    state: State
    reason: str = ""
    mode: str = ""
    seconds: float | None = None
    noise_before: float | None = None
    noise_after: float | None = None
    warnings: tuple[str, ...] = ()
    folder: str = ""
    report: str = ""
    thumbnail: bytes = b""

    @property
    def removed(self) -> float | None:
        """Share of the noise that was removed, 1 - after / before; None if it is not known."""
        if self.noise_after is None or not self.noise_before:
            return None
        return 1 - self.noise_after / self.noise_before

    def measured(self, folder: Path) -> Self:
        """Return the record with what the metrics.json of its report states.

        Args:
            folder: Folder that holds metrics.json.

        Raises:
            CtbasisError: metrics.json is missing or not readable.
        """
        path = folder / METRICS
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
            return replace(
                self,
                mode=str(metrics["mode"]),
                noise_before=_number(metrics["noise_before_hu"]),
                noise_after=_number(metrics["noise_after_hu"]),
                warnings=tuple(map(str, metrics["warnings"])),
                thumbnail=b64decode(metrics["thumbnail"], validate=True),
            )
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CtbasisError(
                f"{path} cannot be read ({error})",
                expected="the metrics of a report",
                cause="the file was changed, or another version of ctbasis wrote it",
                remedy="denoise the series again",
            ) from error

    def to_json(self) -> dict[str, Any]:
        """Return the record as a JSON object."""
        return {
            **vars(self),
            "row": self.row.to_json(),
            "state": str(self.state),
            "warnings": list(self.warnings),
            "thumbnail": b64encode(self.thumbnail).decode(),
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> Self:
        """Return the record of a JSON object that `to_json` gave.

        Raises:
            CtbasisError: A field is unknown, absent or of another type.
        """
        try:
            _refuse_unknown(document.keys() - cls.__dataclass_fields__.keys())
            record = cls(
                row=SeriesRow.from_json(document["row"]),
                state=State(document["state"]),
                reason=_text(document["reason"]),
                mode=_text(document["mode"]),
                seconds=_number(document["seconds"]),
                noise_before=_number(document["noise_before"]),
                noise_after=_number(document["noise_after"]),
                warnings=tuple(_text(warning) for warning in document["warnings"]),
                folder=_text(document["folder"]),
                report=_text(document["report"]),
                thumbnail=b64decode(document["thumbnail"], validate=True),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CtbasisError(
                f"the record of a series is not valid ({error})",
                expected="a record as a cohort writes it",
                cause="another version of ctbasis wrote it, or it was edited",
                remedy="run the cohort into another folder",
            ) from error
        return record


def failed(record: SeriesRecord, error: Exception, source: Path | None = None) -> SeriesRecord:
    """Return the record of a series that failed, with the reason in one line.

    Args:
        record: The record before.
        error: What was raised.
        source: Folder of the fetched files; the reason does not name it, because it is temporary.
    """
    told = error if isinstance(error, CtbasisError) else defect(error)
    reason = told.found + (f" (remedy: {told.remedy})" if told.remedy else "")
    if source is not None:
        reason = reason.replace(f" in {source}", "").replace(str(source), "the series")
    return replace(record, state=State.FAILED, reason=reason, mode="", folder="", report="")


def _refuse_unknown(names: Iterable[str]) -> None:
    for name in sorted(names):
        raise ValueError(f"{name} is unknown")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


def _number(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{value!r} is no finite number of at least 0")
    return float(value)
