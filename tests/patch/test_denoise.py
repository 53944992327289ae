"""Denoising of synthetic volumes, against the known truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, gaussian_filter
from skimage.restoration import denoise_tv_chambolle

from ctbasis.errors import CtbasisError
from ctbasis.patch.denoise import MAX_PASSED_NOISE, LowPass, restored_noise_fraction
from ctbasis.patch.learn import learn_basis
from ctbasis.patch.noise import Noise
from ctbasis.patch.noise_fit import fit_noise
from ctbasis.patch.rows import PatchGrid, patch_shape
from ctbasis.patch.volume import ArrayVolume
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.nodules import Contrast, InsertedNodule, insert
from ctbasis.simulate.projection import ParallelBeam
from tests import emphysema
from tests.patch.volumes import (
    SHAPE,
    body,
    constant_noise,
    denoise_blind,
    denoise_volume,
    errors_of_blind_denoising,
    white_noise,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from ctbasis.patch.basis import PatchBasis


@pytest.fixture(scope="module")
def truth() -> NDArray[np.float32]:
    return body()


@pytest.fixture(scope="module")
def noisy(truth: NDArray[np.float32]) -> ArrayVolume:
    return ArrayVolume(truth + white_noise(truth.shape), (1.4, 1.4, 2.5))


@pytest.fixture(scope="module")
def basis(noisy: ArrayVolume) -> PatchBasis:
    return learn_basis(noisy, constant_noise(noisy.shape, 30.0), shape=SHAPE, classes=8)


@pytest.mark.parametrize("stride", [1, 2])
def test_tau_zero_returns_the_volume(noisy: ArrayVolume, basis: PatchBasis, stride: int) -> None:
    again = denoise_volume(noisy, constant_noise(noisy.shape, 30.0), basis, tau=0.0, stride=stride)
    np.testing.assert_allclose(again, noisy.hu, atol=0.1)


@pytest.mark.parametrize("wiener", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_denoising_in_slabs_gives_the_same_as_in_one_piece(
    noisy: ArrayVolume, basis: PatchBasis, stride: int, wiener: bool
) -> None:
    noise = constant_noise(noisy.shape, 30.0)
    one = denoise_volume(noisy, noise, basis, height=1000, stride=stride, wiener=wiener)
    many = denoise_volume(noisy, noise, basis, height=16, stride=stride, wiener=wiener)
    # Rounding decides about a coefficient very close to tau, so almost all voxels are equal, but not all.
    assert np.quantile(np.abs(one - many), 0.999) < 0.05


@pytest.mark.parametrize("threshold", ["hard", "shrink"])
def test_denoising_reduces_the_noise_and_keeps_the_mean(
    truth: NDArray[np.float32], noisy: ArrayVolume, basis: PatchBasis, threshold: str
) -> None:
    clean = denoise_volume(noisy, constant_noise(noisy.shape, 30.0), basis, threshold=threshold)
    inside = truth > -300
    before, after = (noisy.hu - truth)[inside], (clean - truth)[inside]
    assert after.std() < 0.6 * before.std()
    assert abs(after.mean()) < 1.0


def test_the_matched_filter_keeps_more_contrast_of_lung_nodules_and_does_not_change_tissue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    truth = np.moveaxis(body(), -1, 0).copy()
    spacing = (2.5, 1.4, 1.4)
    lungs = [
        InsertedNodule(z, y, x, 3.0, 300.0)
        for z, y, x in ((4.0, 48.5, 30.5), (8.0, 62.5, 44.5), (6.0, 48.5, 84.5), (3.0, 62.5, 98.5))
    ]
    insert(truth, lungs, spacing)
    beam = ParallelBeam.around((128, 128), spacing[1:], 200)
    noisy = truth + image_noise(truth, beam, Dose(2e3, kernel="hann"))
    volume = ArrayVolume(np.ascontiguousarray(np.moveaxis(noisy, 0, -1)), (1.4, 1.4, 2.5))
    noise = fit_noise(volume, reach=tuple(edge - 1 for edge in SHAPE))
    basis = learn_basis(volume, noise, shape=SHAPE)
    # The low-pass filter would carry a little of what changes in the lung into tissue.
    monkeypatch.setattr(LowPass, "of", lambda _: LowPass(0))

    def denoised() -> tuple[NDArray[np.float32], float]:
        clean = np.moveaxis(denoise_volume(volume, noise, basis), -1, 0)
        contrast = Contrast(lungs, (128, 128), spacing)
        for z in range(len(truth)):
            contrast.add(z, truth[z], clean[z])
        return clean, float(contrast.kinds()[0]["recovered"])

    matched, kept = denoised()
    monkeypatch.setattr("ctbasis.patch.denoise.LUNG", -np.inf)
    alone, kept_alone = denoised()
    assert kept > kept_alone + 0.05
    tissue = binary_erosion(truth > -300, np.ones((1, 11, 11)))
    np.testing.assert_array_equal(matched[tissue], alone[tissue])


def test_a_series_near_the_target_noise_is_returned_unchanged(noisy: ArrayVolume, basis: PatchBasis) -> None:
    for target in (22.0, 30.0, 45.0):
        np.testing.assert_array_equal(
            denoise_volume(noisy, constant_noise(noisy.shape, 30.0), basis, target_noise=target), noisy.hu
        )


def test_the_restored_fraction_follows_from_noise_and_target_noise(noisy: ArrayVolume, basis: PatchBasis) -> None:
    noise = constant_noise(noisy.shape, 30.0)
    clean = denoise_volume(noisy, noise, basis, target_noise=0.0)
    np.testing.assert_allclose(
        denoise_volume(noisy, noise, basis, target_noise=10.0), clean + (noisy.hu - clean) / 8, atol=1e-3
    )
    # The noise floor is half of the variance 900. Of the other 450, 350 exceed the target variance of 100.
    assert restored_noise_fraction(30.0, 0.5, 10.0) == pytest.approx(100 / 350)


@pytest.mark.parametrize(("spared", "most"), [(12.0, 0.97), (20.0, 1.0), (40.0, 1.01)])
def test_denoising_brings_low_dose_series_nearer_to_the_standard_dose_series(
    truth: NDArray[np.float32], spared: float, most: float
) -> None:
    # The reference is a standard-dose scan with 10 HU of noise of its own, which is part of the low-dose scan too.
    standard = truth + white_noise(truth.shape, 10.0)
    more = np.random.default_rng(2).normal(0, spared, truth.shape).astype(np.float32)
    low = ArrayVolume(standard + more, (1.4, 1.4, 2.5))
    noise = constant_noise(low.shape, float(np.hypot(10.0, spared)))
    # As many classes as a run has: with a few, edges and uniform tissue share a class, whose energy is that of edges.
    basis = learn_basis(low, noise, shape=SHAPE)
    inside = truth > -300

    def error(hu: NDArray[np.float32]) -> float:
        return float(np.sqrt(np.square((hu - standard)[inside]).mean()))

    kept, all_gone = (error(denoise_volume(low, noise, basis, target_noise=target)) for target in (10.0, 0.0))
    assert kept < 0.95 * error(low.hu)
    assert kept < most * all_gone


def test_pure_noise_is_almost_completely_removed() -> None:
    volume = ArrayVolume(white_noise((64, 64, 10)))
    noise = constant_noise(volume.shape, 30.0)
    left = denoise_volume(volume, noise, learn_basis(volume, noise, shape=SHAPE, classes=4), tau=2.7, target_noise=0.0)
    assert left.std() < 0.15 * 30.0


def test_a_series_without_noise_is_returned_almost_unchanged_with_a_note(truth: NDArray[np.float32]) -> None:
    volume = ArrayVolume(np.round(truth), (1.4, 1.4, 2.5))
    noise = fit_noise(volume)
    assert noise.notes
    clean = denoise_volume(volume, noise, learn_basis(volume, noise, shape=SHAPE, classes=4))
    assert np.sqrt(np.mean((clean - volume.hu) ** 2)) < 1.0


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_a_volume_with_fewer_slices_than_a_patch_is_denoised(slices: int) -> None:
    truth = body(128, slices)
    volume = ArrayVolume(truth + white_noise(truth.shape), (1.4, 1.4, 2.5))
    noise = constant_noise(volume.shape, 30.0)
    shape = patch_shape(volume.shape, volume.spacing)
    clean = denoise_volume(volume, noise, learn_basis(volume, noise, shape=shape, classes=4))
    inside = truth > -300
    assert (clean - truth)[inside].std() < 0.8 * 30.0


def test_patches_without_a_measured_voxel_are_left_out_and_change_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    hu = body(96, 5) + white_noise((96, 96, 5))
    hu[:40] = -1000
    volume, noise = ArrayVolume(hu, (1.4, 1.4, 2.5)), constant_noise(hu.shape, 30.0)
    basis = learn_basis(volume, noise, shape=SHAPE, classes=4)
    clean = denoise_volume(volume, noise, basis, stride=2)
    np.testing.assert_allclose(clean[:24], -1000, atol=1e-3)
    monkeypatch.setattr(PatchGrid, "occupied", lambda _, mask: np.ones(mask.shape, np.bool_))
    every = denoise_volume(volume, noise, basis, stride=2)
    np.testing.assert_array_equal(clean[40:], every[40:])


@pytest.mark.parametrize("slices", [1, 2])
def test_one_or_two_slices_are_denoised_blind(slices: int) -> None:
    truth = body(256, slices)
    before, after, _ = errors_of_blind_denoising(truth, truth + white_noise(truth.shape))
    assert after < 0.8 * before


def test_an_already_denoised_series_is_hardly_changed_and_gets_a_note(truth: NDArray[np.float32]) -> None:
    left = gaussian_filter(white_noise(truth.shape), (2, 2, 0))
    before, after, noise = errors_of_blind_denoising(truth, truth + left)
    assert noise.notes
    assert after < 1.1 * before < 1.1 * 5


@pytest.mark.parametrize(("strength", "in_body", "in_lung"), [(0.3, 0.6, 0.7), (0.6, 0.7, 0.8), (0.9, 0.9, 1.0)])
def test_denoising_improves_iterative_reconstructions_in_body_and_lung(
    truth: NDArray[np.float32], strength: float, in_body: float, in_lung: float
) -> None:
    # The strength of an iterative reconstruction is imitated by blending with an image of minimal total variation.
    beam = ParallelBeam.around((128, 128), (2.8, 2.8))
    slices = np.moveaxis(truth, -1, 0)
    plain = slices + image_noise(slices, beam, Dose(1e4))
    sigma = float((plain - slices)[slices > -300].std())
    smooth = np.stack([denoise_tv_chambolle(image / sigma, weight=0.8) * sigma for image in plain.astype(np.float64)])
    hu = np.maximum(np.moveaxis((1 - strength) * plain + strength * smooth, 0, -1), -1000).astype(np.float32)
    clean, _ = denoise_blind(hu, (2.8, 2.8, 2.5))
    lung = (truth > -950) & (truth < -600)
    for region, most in ((truth > -300, in_body), (lung, in_lung)):
        before, after = (np.sqrt(np.mean((image - truth)[region] ** 2)) for image in (hu, clean))
        assert after < most * before


def test_metal_far_above_3071_hu_is_kept_and_the_noise_around_it_falls() -> None:
    truth = body()
    truth[40:44, 62:66] = 12000.0
    hu = truth + white_noise(truth.shape)
    before, after, noise = errors_of_blind_denoising(truth, hu)
    assert after < 0.8 * before
    volume = ArrayVolume(hu, (1.4, 1.4, 2.5))
    clean = denoise_volume(volume, noise, learn_basis(volume, noise, shape=SHAPE, classes=8))
    assert abs(np.median(clean[41:43, 63:65]) - 12000) < 60


def test_thick_slices_are_improved_even_where_neighbours_share_no_anatomy() -> None:
    thick = body(128, 40)[..., ::5]
    before, after, _ = errors_of_blind_denoising(thick, thick + white_noise(thick.shape))
    assert after < 0.85 * before
    strange = np.concatenate([body(96 + 16 * index, 1)[:96, :96] for index in range(5)], axis=2)
    before, after, _ = errors_of_blind_denoising(strange, strange + white_noise(strange.shape))
    assert after < before


@pytest.mark.parametrize(
    "wrong",
    [
        {"tau": -1.0},
        {"tau": float("nan")},
        {"stride": 0},
        {"stride": 6},
        {"target_noise": -1.0},
        {"target_noise": float("nan")},
    ],
)
def test_parameters_out_of_range_are_rejected(noisy: ArrayVolume, basis: PatchBasis, wrong: dict[str, float]) -> None:
    with pytest.raises(CtbasisError):
        denoise_volume(noisy, constant_noise(noisy.shape, 30.0), basis, **wrong)


def noise_of_reconstruction(slices: int) -> tuple[NDArray[np.float32], Noise]:
    """Return noise as of filtered back-projection, independent in each slice, and its description."""
    added = np.stack([emphysema.noise(seed) for seed in range(slices)], axis=-1)
    spectrum = np.square(np.abs(np.fft.fft2(added, axes=(0, 1)))).mean(axis=-1)
    plane = np.fft.fftshift(np.fft.ifft2(spectrum).real)[124:133, 124:133]
    covariance = np.zeros((9, 9, 5 if slices > 1 else 1))
    covariance[..., covariance.shape[2] // 2] = plane / plane.max()
    cells = (emphysema.EDGE // 8, emphysema.EDGE // 8, slices)
    return added, Noise(np.full(cells, emphysema.NOISE, np.float32), covariance, 1000)


@pytest.mark.parametrize("slices", [1, 6])
def test_the_low_pass_filter_passes_as_little_noise_as_it_predicts(slices: int) -> None:
    added, noise = noise_of_reconstruction(slices)
    low_pass = LowPass.of(noise)
    assert low_pass.half > 0
    # The first and the last slice have one neighbour, and pass more.
    passed = low_pass(added)[..., slices > 1 : max(1, slices - 1)].std() / emphysema.NOISE
    assert 0.4 * MAX_PASSED_NOISE < passed < 1.2 * MAX_PASSED_NOISE
    assert LowPass.of(constant_noise((64, 64, 6), 30.0)).half > 0


def test_noise_with_most_of_its_power_at_coarse_scales_is_not_restored() -> None:
    lags = np.mgrid[-4:5, -4:5, -2:3]
    smooth = np.exp(-np.square(lags).sum(axis=0) / 200)
    assert LowPass.of(Noise(np.full((8, 8, 6), 30.0, np.float32), smooth, 1000)).half == 0


def test_structure_that_is_larger_than_a_patch_and_fainter_than_the_threshold_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    added, noise = noise_of_reconstruction(6)
    y, x = np.mgrid[: emphysema.EDGE, : emphysema.EDGE]
    blob = np.exp(-((y - 128) ** 2 + (x - 128) ** 2) / (2 * 8.0**2))[..., None]
    truth = 40 + 0.3 * emphysema.NOISE * blob
    volume = ArrayVolume((truth + added).astype(np.float32), (0.8, 0.8, 2.5))
    basis = learn_basis(volume, noise, shape=SHAPE, classes=1)

    def kept() -> tuple[float, float]:
        """Return the part of the contrast of the blob that is kept, and the RMS of the noise that remains."""
        clean = denoise_volume(volume, noise, basis, target_noise=0.0) - 40
        contrast = float((clean * blob).sum() / np.square(blob).sum() / 6 / (0.3 * emphysema.NOISE))
        return contrast, float(clean[:64].std() / emphysema.NOISE)

    (contrast, remaining) = kept()
    monkeypatch.setattr(LowPass, "of", lambda _: LowPass(0))
    (contrast_without, remaining_without) = kept()
    assert contrast > contrast_without + 0.2
    assert contrast > 0.75
    # The first and the last slice have one neighbour, and pass more.
    assert remaining < remaining_without + 1.2 * MAX_PASSED_NOISE
