"""Fit of the variance model, against noise of simulated scanners and against variances with a known distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from ctbasis.patch.cells import Cells
from ctbasis.patch.noise import CELL
from ctbasis.patch.noise_fit import fit_noise
from ctbasis.patch.ray_paths import RayPaths, ScanModel, TracedRays
from ctbasis.patch.variance_model import VarianceModel, fit_variance_model
from ctbasis.patch.volume import ArrayVolume
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.projection import ParallelBeam
from tests import emphysema
from tests.patch.volumes import body, sigma_errors

if TYPE_CHECKING:
    from numpy.typing import NDArray

EDGE, SLICES, PIXEL = 256, 12, 1.4
CELLS = (CELL * PIXEL, CELL * PIXEL)
FREEDOM = 40
"""Degrees of freedom of a cell's variance."""


def cell_means(hu: NDArray[np.float32]) -> NDArray[np.float32]:
    return hu.reshape(EDGE // CELL, CELL, EDGE // CELL, CELL, -1).mean(axis=(1, 3))


def measured(mean: NDArray[np.float32], scan: ScanModel, share: float, *, seed: int = 0) -> Cells:
    """Return cells with variances under `scan` and their statistical error, and in half of them with anatomy added.

    The coarse variance is that of the noise and ten times the anatomy.
    """
    rng = np.random.default_rng(seed)
    one, two = RayPaths(mean, CELLS).variances(scan)
    expected = 400 * ((1 - share) * one + share * two)
    variance, coarse = (expected * rng.chisquare(FREEDOM, mean.shape) / FREEDOM for _ in range(2))
    anatomy = rng.exponential(600, mean.shape) * (rng.uniform(size=mean.shape) < 0.5)
    values = np.asarray(variance + anatomy, np.float32)
    return Cells(mean, values, values, np.asarray(coarse + 10 * anatomy, np.float32), np.zeros_like(values))


@pytest.mark.parametrize(
    "scan",
    [
        ScanModel(),
        ScanModel(bow_tie_radius=155.0),
        ScanModel(bow_tie_radius=220.0),
        ScanModel(modulation=1.0),
        ScanModel(bow_tie_radius=190.0, modulation=0.5),
    ],
    ids=lambda scan: f"bow-tie {scan.bow_tie_radius:g} mm, modulation {scan.modulation:g}",
)
def test_the_fit_finds_the_variance_map_for_every_kind_of_scan(scan: ScanModel) -> None:
    mean = cell_means(body(EDGE, SLICES))
    tissue = (mean > -920) & (mean < 150)
    one, two = RayPaths(mean, CELLS).variances(scan)
    true = 0.6 * one + 0.4 * two
    fitted = fit_variance_model(measured(mean, scan, 0.4), tissue, TracedRays(mean, CELLS)).relative_variance
    ratio = np.log(fitted / true)[tissue]
    assert np.std(ratio) < 0.2
    if scan != ScanModel():
        plain = RayPaths(mean, CELLS).variances(ScanModel())
        # The best fit of a model without bow-tie filter and modulation.
        assert np.std(ratio) < min(
            np.std(np.log((1 - s) * plain[0] + s * plain[1])[tissue] - np.log(true)[tissue])
            for s in np.linspace(0, 1, 11)
        )


def test_the_description_names_the_properties_that_differ_from_the_default() -> None:
    shape, rays = np.ones((1, 1, 1)), np.ones((1, 1, 1, 1), np.float32)
    assert VarianceModel(ScanModel(), 0.2, 1.0, shape, rays, 32).description() == "20% electronic noise"
    description = VarianceModel(
        ScanModel(starvation_path=7.0, bow_tie_radius=130.0, modulation=0.5), 0.0, 0.25, shape, rays, 32
    ).description()
    for part in ("bow-tie filter for a body of 260 mm", "compensates 50% of", "path length of 7", "power 0.25"):
        assert part in description


@pytest.mark.parametrize("clipped", [-3000, -1024])
def test_uniform_noise_in_few_slices_is_not_fitted_to_a_scanner_by_chance(clipped: int) -> None:
    truth, masks = emphysema.chest()
    added = np.stack([emphysema.noise(seed) for seed in range(3)], axis=-1)
    hu = np.maximum(np.round(truth[..., None] + added), clipped).astype(np.float32)
    sigma = fit_noise(ArrayVolume(hu, (emphysema.PIXEL, emphysema.PIXEL, 2.5))).sigma_rows(0, *truth.shape)
    for part in ("lung", "emphysema", "body"):
        assert np.median(sigma[masks[part]]) == pytest.approx(emphysema.NOISE, rel=0.08)


def test_without_tissue_the_model_has_default_properties_and_no_description() -> None:
    mean = cell_means(body(EDGE, 2))
    cells = measured(mean, ScanModel(bow_tie_radius=155.0), 0.4)
    model = fit_variance_model(cells, np.zeros(mean.shape, np.bool_), TracedRays(mean, CELLS))
    assert model.scan == ScanModel()
    assert not model.description()
    assert np.isfinite(model.relative_variance).all()
    assert (model.relative_variance > 0).all()


@pytest.mark.parametrize(
    "scanner",
    [
        {"bow_tie": 150.0},
        {"bow_tie": 220.0},
        {"modulation": 0.5},
        {"modulation": 1.0},
        {"bow_tie": 180.0, "modulation": 0.7},
    ],
    ids=str,
)
def test_sigma_is_accurate_with_bow_tie_filters_and_modulation(scanner: dict[str, float]) -> None:
    truth = body(EDGE, SLICES)
    beam = ParallelBeam.around((EDGE, EDGE), (PIXEL, PIXEL), 200)
    added = np.moveaxis(image_noise(np.moveaxis(truth, -1, 0), beam, Dose(5e4, **scanner)), 0, -1)
    sigma = fit_noise(ArrayVolume(np.maximum(truth + added, -1000), (PIXEL, PIXEL, 2.5))).sigma_rows(0, EDGE, EDGE)
    true = np.sqrt(gaussian_filter((added**2).mean(axis=2), 3.0))[..., None]
    in_body, in_lung = sigma_errors(sigma, true, truth)
    assert in_body < 0.10
    assert in_lung < 0.15


def test_uniform_noise_gives_a_uniform_sigma() -> None:
    truth = body(EDGE, SLICES)
    noise = gaussian_filter(np.random.default_rng(2).normal(0, 1, truth.shape), (0.8, 0.8, 0)).astype(np.float32)
    noise *= 30 / noise.std()
    sigma = fit_noise(ArrayVolume(np.maximum(truth + noise, -1000), (PIXEL, PIXEL, 2.5))).sigma_rows(0, EDGE, EDGE)
    in_body, in_lung = sigma_errors(sigma, np.full_like(sigma, 30), truth)
    assert in_body < 0.10
    assert in_lung < 0.15
