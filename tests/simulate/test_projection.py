"""Projection and reconstruction agree with the closed-form results for discs."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctbasis.simulate.projection import KERNELS, ParallelBeam, project, ramp, reconstruct, window

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ctbasis.simulate.projection import Kernel

MU = 0.02


def disc(
    image: tuple[int, int], spacing: tuple[float, float], radius: float, *, centre: tuple[float, float] = (0, 0)
) -> NDArray[np.float32]:
    """Return a disc of MU with 8 x 8 samples a pixel, (rows, columns, 1); radius and centre (x, y) in mm."""
    samples = 8

    def axis(count: int, step: float) -> NDArray[np.float64]:
        return (np.arange(count * samples) - (count * samples - 1) / 2) * step / samples

    y, x = axis(image[0], spacing[0])[:, None], axis(image[1], spacing[1])
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 < radius**2
    part = inside.reshape(image[0], samples, image[1], samples).mean(axis=(1, 3))
    return np.asarray(MU * part[..., None], np.float32)


@pytest.mark.parametrize(
    ("image", "spacing", "centre"),
    [
        ((96, 96), (1.5, 1.5), (0.0, 0.0)),
        ((96, 96), (1.5, 1.5), (14.0, -9.0)),
        ((80, 128), (1.2, 1.2), (20.0, 5.0)),
        ((96, 96), (1.0, 1.5), (5.0, 6.0)),
        ((97, 95), (1.5, 1.0), (-3.0, 2.0)),
    ],
)
def test_the_projection_of_a_disc_is_mu_times_its_chord_at_every_angle(
    image: tuple[int, int], spacing: tuple[float, float], centre: tuple[float, float]
) -> None:
    radius = 30.0
    beam = ParallelBeam.around(image, spacing, views=60)
    p = project(disc(image, spacing, radius, centre=centre), beam)[..., 0]
    angles = beam.angles[:, None]
    t = beam.positions - centre[0] * np.cos(angles) - centre[1] * np.sin(angles)
    chord = 2 * np.sqrt(np.maximum(radius**2 - t**2, 0))
    inside, beyond = np.abs(t) < radius - 2 * max(spacing), np.abs(t) > radius + 2 * max(spacing)
    assert np.abs(p - MU * chord)[inside].max() < 0.03 * 2 * radius * MU
    assert np.abs(p - MU * chord)[inside].mean() < 0.005 * 2 * radius * MU
    assert not p[beyond].any()


def test_every_view_has_the_same_total() -> None:
    image = disc((96, 96), (1.5, 1.5), 40.0, centre=(10.0, -12.0))
    beam = ParallelBeam.around((96, 96), (1.5, 1.5))
    mass = project(image, beam)[..., 0].sum(axis=1) * beam.pitch
    np.testing.assert_allclose(mass, MU * math.pi * 40**2, rtol=0.01)


def test_twice_the_pixel_spacing_gives_twice_the_line_integral() -> None:
    image = disc((64, 64), (1.0, 1.0), 20.0)
    small, large = (project(image, ParallelBeam.around((64, 64), (step, step), 30)) for step in (1.0, 2.0))
    np.testing.assert_allclose(large, 2 * small, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("image", "spacing"), [((128, 128), (1.5, 1.5)), ((100, 140), (1.2, 1.0))])
def test_reconstruction_returns_the_disc_that_was_projected(
    image: tuple[int, int], spacing: tuple[float, float]
) -> None:
    centre = (9.0, -6.0)
    true = disc(image, spacing, 35.0, centre=centre)
    beam = ParallelBeam.around(image, spacing)
    found = reconstruct(project(true, beam), beam)[..., 0]
    y, x = ((np.arange(count) - (count - 1) / 2)[:, None] * step for count, step in zip(image, spacing, strict=True))
    away = np.hypot(x.T - centre[0], y - centre[1])
    inside, beyond = away < 30, (away > 40) & (away < 48)
    assert found[inside].mean() == pytest.approx(MU, rel=0.003)
    assert np.abs(found[inside] - MU).max() < 0.03 * MU
    assert abs(found[beyond].mean()) < 0.005 * MU
    assert np.abs(found[beyond]).max() < 0.03 * MU


def test_slices_of_a_batch_are_independent() -> None:
    rng = np.random.default_rng(0)
    image = rng.uniform(0, MU, (48, 48, 5)).astype(np.float32)
    beam = ParallelBeam.around((48, 48), (1.5, 1.5))
    together = reconstruct(project(image, beam), beam)
    for z in range(5):
        alone = reconstruct(project(image[..., z : z + 1], beam), beam)[..., 0]
        np.testing.assert_allclose(together[..., z], alone, rtol=1e-4, atol=1e-6)


def test_projection_and_reconstruction_are_linear() -> None:
    rng = np.random.default_rng(1)
    one, other = (rng.uniform(0, MU, (40, 40, 1)).astype(np.float32) for _ in range(2))
    beam = ParallelBeam.around((40, 40), (1.5, 1.5))
    both = reconstruct(project(one + 2 * other, beam), beam)
    apart = reconstruct(project(one, beam), beam) + 2 * reconstruct(project(other, beam), beam)
    np.testing.assert_allclose(both, apart, atol=1e-5)


def test_the_filter_is_a_ramp_at_low_frequencies_and_zero_at_the_highest() -> None:
    pitch, length = 1.5, 4096
    response = ramp(length, pitch)
    f = np.fft.rfftfreq(length, pitch)
    low = (f > 0.01 / pitch) & (f < 0.05 / pitch)
    np.testing.assert_allclose(response[low], f[low], rtol=0.04)
    assert response[-1] == pytest.approx(0, abs=1e-12)
    # The band-limited ramp is a little above zero at zero: what keeps a reconstruction's mean.
    assert 0 < response[0] < 1e-3 * response.max()


def test_kernels_are_ordered_from_soft_to_sharp_and_keep_low_frequencies() -> None:
    f = np.linspace(0, 0.5, 64)
    windows = np.stack([window(f, kernel) for kernel in KERNELS])
    np.testing.assert_allclose(windows[:, 0], 1)
    assert (np.diff(windows, axis=0)[:, 1:] > 0).all()
    np.testing.assert_allclose(windows[:, -1], [0, 0, 2 / np.pi, 1], atol=1e-12)


@pytest.mark.parametrize("kernel", KERNELS)
def test_every_kernel_keeps_the_mean_of_a_disc(kernel: Kernel) -> None:
    beam = ParallelBeam.around((96, 96), (1.5, 1.5))
    found = reconstruct(project(disc((96, 96), (1.5, 1.5), 35.0), beam), beam, kernel=kernel)[..., 0]
    assert found[38:58, 38:58].mean() == pytest.approx(MU, rel=0.003)


def test_the_beam_covers_the_diagonal_and_samples_the_rim() -> None:
    beam = ParallelBeam.around((256, 200), (1.5, 1.5))
    assert beam.positions[0] < -math.hypot(256, 200) * 1.5 / 2
    assert beam.positions[-1] == -beam.positions[0]
    assert beam.views == math.ceil(math.pi / 2 * 256)
    assert beam.angles[-1] < math.pi


def test_arrays_of_another_geometry_are_refused() -> None:
    beam = ParallelBeam.around((32, 32), (1.5, 1.5))
    with pytest.raises(ValueError, match="the beam is for 32 x 32"):
        project(np.zeros((32, 31, 1), np.float32), beam)
    with pytest.raises(ValueError, match="views"):
        reconstruct(np.zeros((beam.views, beam.bins + 1, 1), np.float32), beam)


SCANNED = """
import hashlib
import numpy as np
from ctbasis.simulate.projection import ParallelBeam, project, reconstruct

image = np.random.default_rng(0).random((48, 64, 3), np.float32)
beam = ParallelBeam.around(image.shape[:2], (0.7, 0.8))
projections = project(image, beam)
print(hashlib.sha256(projections.tobytes() + reconstruct(projections, beam).tobytes()).hexdigest())
"""


def test_compiled_and_cached_code_give_the_same_bits(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", SCANNED]
    first, second = (
        subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout for _ in range(2)
    )
    assert any(tmp_path.rglob("*.nbc"))
    assert first == second
