"""Model observers agree with those of FDA's LCD-CT, run under Octave, on the same images of the dose simulator.

LCD-CT is neither installed nor downloaded: CTBASIS_LCD_CT names the folder of a clone of DIDSR/LCD_CT.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.io import loadmat, savemat
from scipy.ndimage import gaussian_filter

from ctbasis.score.task.channels import difference_of_gaussians, gabor, laguerre_gauss, outputs
from ctbasis.score.task.observers import hotelling, npwe_template
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.inserts import Insert, draw_inserts
from ctbasis.simulate.projection import ParallelBeam

if TYPE_CHECKING:
    from numpy.typing import NDArray

EDGE = 65
"""Rows and columns: odd, because the frequencies of LCD-CT's channels and filters are those of odd numbers."""

COUNT = 400
"""Images of each pattern for training, and as many for testing."""

PIXEL = 54 / 128 * (EDGE - 1) / EDGE
"""mm between pixels on LCD-CT's display, 128 pixels on 54 mm, with its frequencies of EDGE - 1 pixels."""

WIDTH, CHANNELS, BANDS, ORIENTATIONS = 16.0, 5, 3, 4
"""Width and number of the Laguerre-Gauss channels; number of Gabor bands, the highest up to 1/8, and directions."""

# LCD-CT's template without prewhitening is the mean difference of the training images: of images with the same noise it
# is the signal, as in ours.
SCRIPT = """
pkg_path = getenv('LCDCT'); addpath(pkg_path); addpath([pkg_path '/functions']);
load('images.mat');
[auc(1), snr(1)] = lg_cho_2d(train_absent, train_present, absent, present, width, channels);
[auc(2), snr(2)] = dog_cho_2d(train_absent, train_present, absent, present, 'dense');
[auc(3), snr(3)] = gabor_cho_2d(train_absent, train_present, absent, present, bands, orientations, 0);
[auc(4), snr(4)] = npwe_2d(train_absent, train_absent + signal, absent, present, 0);
[auc(5), snr(5)] = npwe_2d(train_absent, train_absent + signal, absent, present, 1);
save('-v6', 'results.mat', 'auc', 'snr');
"""


@pytest.fixture
def octave() -> tuple[str, Path]:
    """Octave's program, and the folder of LCD-CT's functions."""
    program, folder = shutil.which("octave-cli"), os.environ.get("CTBASIS_LCD_CT")
    if folder is None:
        pytest.skip("CTBASIS_LCD_CT does not name the folder of a clone of github.com/DIDSR/LCD_CT")
    if program is None:
        pytest.skip("octave-cli is not on PATH; it is in Debian's package octave")
    functions = Path(folder) / "src" / "lcdct"
    assert (functions / "functions" / "lg_cho_2d.m").is_file(), f"{folder} is no clone of DIDSR/LCD_CT"
    return program, functions


def simulated() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return a blurred disc of 4 mm, HU, and noise of the dose simulator, (4 COUNT, EDGE, EDGE)."""
    disc = np.zeros((1, EDGE, EDGE))
    draw_inserts(disc, [Insert((EDGE - 1) / 2, (EDGE - 1) / 2, 4.0, -60.0)], (PIXEL, PIXEL))
    beam = ParallelBeam.around((EDGE, EDGE), (PIXEL, PIXEL))
    noise = image_noise(np.zeros((4 * COUNT, EDGE, EDGE), np.float32), beam, Dose(6e2, seed=5))
    return gaussian_filter(disc[0], 1.0), noise.astype(np.float64)


def test_d_prime_and_auc_are_those_of_lcd_ct_within_five_percent(octave: tuple[str, Path], tmp_path: Path) -> None:
    program, functions = octave
    s, noise = simulated()
    sets = dict(zip(("train_absent", "train_present", "absent", "present"), np.split(noise, 4), strict=True))
    images = {name: one + s if "present" in name else one for name, one in sets.items()}
    last = {name: np.moveaxis(one, 0, 2) for name, one in images.items()}
    counts = {"channels": CHANNELS, "bands": BANDS, "orientations": ORIENTATIONS}
    savemat(
        tmp_path / "images.mat", {**last, "signal": s, "width": WIDTH, **{name: float(n) for name, n in counts.items()}}
    )
    # No history, no start-up files: Octave runs this script alone.
    subprocess.run(
        [program, "--norc", "--no-history", "--eval", SCRIPT],
        cwd=tmp_path,
        env={**os.environ, "LCDCT": str(functions)},
        check=True,
        timeout=300,
    )
    found = loadmat(tmp_path / "results.mat")
    ours = {
        "Laguerre-Gauss": laguerre_gauss(EDGE, WIDTH, CHANNELS),
        "DoG": difference_of_gaussians(EDGE),
        "Gabor": gabor(EDGE, ORIENTATIONS, (0.0,))[: BANDS * ORIENTATIONS],
        "NPW": npwe_template(s, (PIXEL, PIXEL), "none"),
        "NPWE": npwe_template(s, (PIXEL, PIXEL), "burgess"),
    }
    # Octave's inverse transform leaves the DoG channels an imaginary part of rounding errors.
    for (name, channels), snr, auc in zip(ours.items(), found["snr"][0].real, found["auc"][0].real, strict=True):
        measured = hotelling(outputs(images["present"], channels), outputs(images["absent"], channels))
        sys.stdout.write(f"{name}: d' {measured.d_prime:.4f}, AUC {measured.auc:.4f}; LCD-CT {snr:.4f}, {auc:.4f}\n")
        assert measured.d_prime == pytest.approx(snr, rel=0.05), name
        assert measured.auc == pytest.approx(auc, abs=0.02)
