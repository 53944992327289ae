"""Errors of the demo's series against the truth, as the rows of one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADER = ("", "error body (HU)", "error lung (HU)", "PSNR (dB)", "SSIM", "seconds")


@dataclass(frozen=True)
class Scores:
    """How far a series is from the truth.

    Attributes:
        rmse_body: Root mean square error over body voxels, HU.
        rmse_lung: The same over lung voxels.
        psnr: Peak signal-to-noise ratio, dB.
        ssim: Structural similarity, 1 for the truth itself.
        seconds: Wall-clock time of the run that made the series; None for the input.
    """

    rmse_body: float
    rmse_lung: float
    psnr: float
    ssim: float
    seconds: float | None = None

    @classmethod
    def of(cls, scores: Mapping[str, Any], seconds: float | None = None) -> Self:
        """Take the scores from `before` or `after` of a run's metrics.json."""
        return cls(
            **{name: float(scores[name]) for name in ("rmse_body", "rmse_lung", "psnr", "ssim")}, seconds=seconds
        )

    def cells(self) -> tuple[str, ...]:
        """Return the cells of a table row, in the order of `HEADER`."""
        seconds = "" if self.seconds is None else f"{self.seconds:.0f}"
        return f"{self.rmse_body:.1f}", f"{self.rmse_lung:.1f}", f"{self.psnr:.1f}", f"{self.ssim:.3f}", seconds


def table(rows: Mapping[str, Scores]) -> str:
    """Return scores by name as a table of plain text, a line for each name."""
    cells = [HEADER, *((name, *scores.cells()) for name, scores in rows.items())]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for name, *numbers in cells:
        columns = [name.ljust(widths[0]), *map(str.rjust, numbers, widths[1:])]
        lines.append("  ".join(columns).rstrip())
    return "\n".join(lines)
