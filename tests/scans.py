"""A small low-dose series with a stored basis, for tests of what denoises whole series."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import ctbasis

if TYPE_CHECKING:
    from pathlib import Path

EDGE, SLICES = 96, 6
"""Rows and columns, and slices, of the series."""


@pytest.fixture(scope="session")
def scan(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the folder of a small low-dose series, and a basis that was learned on it."""
    folder = tmp_path_factory.mktemp("scan")
    phantom = ctbasis.chest_phantom(slices=SLICES, rows=EDGE, columns=EDGE)
    noisy = ctbasis.simulate_dose(phantom, photons=4e3)
    ctbasis.write_series(noisy, folder / "series")
    ctbasis.denoise(ctbasis.read(folder / "series"), keep_basis=folder / "basis")
    return folder / "series", folder / "basis"
