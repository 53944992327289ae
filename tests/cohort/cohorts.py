"""Records of made-up cohorts: several scanners and kernels, every state, warnings, thumbnails."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from ctbasis.cohort.record import SeriesRecord, State
from ctbasis.cohort.series_row import SeriesRow
from ctbasis.report.thumbnail import thumbnail

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

SCANNERS = (
    ("SIEMENS", "SOMATOM Force", "Br40d", 38.0),
    ("SIEMENS", "SOMATOM Force", "Bl57d", 96.0),
    ("GE MEDICAL SYSTEMS", "LightSpeed VCT", "STANDARD", 27.0),
    ("GE MEDICAL SYSTEMS", "LightSpeed VCT", "LUNG", 120.0),
    ("Philips", "Brilliance 64", "B", 31.0),
    ("TOSHIBA", "Aquilion", "FC08", 22.0),
)
"""Manufacturer, model, kernel, usual noise in HU."""

STATES = (*[State.DONE] * 14, *[State.UNCHANGED] * 3, State.FAILED, State.SET_ASIDE, State.NOT_RUN)

WARNING = (
    "The removed component is 1.6 times as strong on edges of anatomy as in flat regions, so anatomy was removed with "
    "the noise. Look for its outlines in Figure 1. A smaller tau keeps more anatomy."
)

REASONS = {
    State.FAILED: "slice 12 of 80 holds no pixels (PixelData ends after 1,024 of 524,288 bytes)",
    State.SET_ASIDE: "no CT image (2 x a localizer)",
    State.NOT_RUN: "the run was interrupted",
}


PICTURES = 4 * len(SCANNERS)
"""Number of different thumbnails."""


@cache
def chests() -> Sequence[NDArray[np.float32]]:
    """Return slices of a chest without noise, each another one, HU."""
    y, x = np.mgrid[-1:1:128j, -1:1:128j]
    slices = []
    for size in np.linspace(0.03, 0.12, 8):
        image = np.where(x**2 + 1.5 * y**2 < 0.8, 40.0, -1000.0)
        image[(np.abs(x) - 0.42) ** 2 + y**2 < size] = -850
        image[x**2 + (y - 0.5) ** 2 < 0.008] = 400
        slices.append(image.astype(np.float32))
    return slices


@cache
def strip(number: int, sigma: float) -> bytes:
    """Return one of the thumbnails of a scanner, with noise of its own."""
    noise = np.random.default_rng(number).normal(0, sigma, (128, 128)).astype(np.float32)
    image = chests()[number % 8]
    return thumbnail(image + noise, image + 0.3 * noise, (1, 1))


def record(number: int, state: State = State.DONE, **values: object) -> SeriesRecord:
    """Return the record of a series; `values` replace fields of its row."""
    rng = np.random.default_rng(number)
    manufacturer, model, kernel, usual = SCANNERS[number % len(SCANNERS)]
    before = usual * float(rng.lognormal(0, 0.2))
    denoised = state in {State.DONE, State.UNCHANGED}
    row = {
        "patient": f"P{number // 2:04}",
        "study": f"1.2.826.0.1.3680043.8.498.{1000 + number // 2}",
        "series": f"1.2.826.0.1.3680043.8.498.{1000 + number // 2}.{number}",
        "description": f"Thorax {kernel} {('1.0', '3.0')[number % 2]} mm",
        "modality": "CT",
        "manufacturer": manufacturer,
        "model": model,
        "kernel": kernel,
        "rows": (512, 96)[number % 3 == 0],
        "columns": (512, 96)[number % 3 == 0],
        "slices": 60 + number % 240,
        "spacing": 1.0,
        "pixel_spacing": 0.7,
        **values,
    }
    return SeriesRecord(
        row=SeriesRow(**row),  # type: ignore[arg-type]
        state=state,
        reason=REASONS.get(state, ""),
        mode="patch" if denoised else "",
        seconds=float(rng.uniform(20, 180)) if denoised else None,
        noise_before=before if denoised else None,
        noise_after=before * float(rng.uniform(0.2, 0.4)) if denoised else None,
        warnings=(WARNING,) if denoised and number % 9 == 0 else (),
        folder=f"P{number // 2:04}/{number}" if denoised else "",
        report=f"P{number // 2:04}/{number}/report.html" if denoised else "",
        thumbnail=strip(number % PICTURES, usual) if denoised else b"",
    )


def cohort(count: int) -> list[SeriesRecord]:
    """Return the records of a cohort of `count` series."""
    return [record(number, STATES[number % len(STATES)]) for number in range(count)]
