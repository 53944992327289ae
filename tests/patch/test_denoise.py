"""Denoising of synthetic volumes, against the known truth."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.ndimage import binary_erosion, gaussian_filter
from skimage.restoration import denoise_tv_chambolle

from ctbasis.errors import CtbasisError
from ctbasis.patch.denoise import restored_noise_fraction
from ctbasis.patch.learn import learn_basis
from ctbasis.patch.noise_fit import fit_noise
from ctbasis.patch.rows import patch_shape
from ctbasis.patch.volume import ArrayVolume
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.nodules import Contrast, InsertedNodule, insert
from ctbasis.simulate.projection import ParallelBeam
from tests.patch.volumes import SHAPE, blind, body, estimated, known, white_noise, whole

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
    return learn_basis(noisy, known(noisy.shape, 30.0), shape=SHAPE, classes=8)


@pytest.mark.parametrize("stride", [1, 2])
def test_with_tau_zero_the_volume_comes_back(noisy: ArrayVolume, basis: PatchBasis, stride: int) -> None:
    again = whole(noisy, known(noisy.shape, 30.0), basis, tau=0.0, stride=stride)
    np.testing.assert_allclose(again, noisy.hu, atol=0.1)


@pytest.mark.parametrize("wiener", [False, True])
@pytest.mark.parametrize("stride", [1, 2])
def test_slab_by_slab_is_what_the_whole_volume_gives(
    noisy: ArrayVolume, basis: PatchBasis, stride: int, wiener: bool
) -> None:
    noise = known(noisy.shape, 30.0)
    one = whole(noisy, noise, basis, height=1000, stride=stride, wiener=wiener)
    many = whole(noisy, noise, basis, height=16, stride=stride, wiener=wiener)
    # A weight within rounding of tau may go either way: almost all voxels are equal.
    assert np.quantile(np.abs(one - many), 0.999) < 0.05


@pytest.mark.parametrize("threshold", ["hard", "shrink"])
def test_the_noise_falls_and_the_mean_stays(
    truth: NDArray[np.float32], noisy: ArrayVolume, basis: PatchBasis, threshold: str
) -> None:
    clean = whole(noisy, known(noisy.shape, 30.0), basis, threshold=threshold)
    inside = truth > -300
    before, after = (noisy.hu - truth)[inside], (clean - truth)[inside]
    assert after.std() < 0.6 * before.std()
    assert abs(after.mean()) < 1.0


def test_a_nodule_in_the_lung_keeps_more_by_its_template_and_tissue_is_as_without(
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

    def denoised() -> tuple[NDArray[np.float32], float]:
        clean = np.moveaxis(whole(volume, noise, basis), -1, 0)
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


def test_a_series_of_standard_dose_comes_back_as_it_is(noisy: ArrayVolume, basis: PatchBasis) -> None:
    for target in (22.0, 30.0, 45.0):
        np.testing.assert_array_equal(whole(noisy, known(noisy.shape, 30.0), basis, target_noise=target), noisy.hu)


def test_the_share_of_noise_that_the_target_has_is_put_back(noisy: ArrayVolume, basis: PatchBasis) -> None:
    noise = known(noisy.shape, 30.0)
    clean = whole(noisy, noise, basis, target_noise=0.0)
    np.testing.assert_allclose(whole(noisy, noise, basis, target_noise=10.0), clean + (noisy.hu - clean) / 8, atol=1e-3)
    # Of 30 HU half the variance is left to begin with: 100 of the 350 beyond 10 HU.
    assert restored_noise_fraction(30.0, 0.5, 10.0) == pytest.approx(100 / 350)


@pytest.mark.parametrize(("spared", "most"), [(12.0, 0.97), (20.0, 1.0), (40.0, 1.01)])
def test_no_series_of_less_dose_is_further_from_the_standard_one_after(
    truth: NDArray[np.float32], spared: float, most: float
) -> None:
    # The scan of standard dose has 10 HU of its own, which must not be held against the one that keeps it.
    standard = truth + white_noise(truth.shape, 10.0)
    more = np.random.default_rng(2).normal(0, spared, truth.shape).astype(np.float32)
    low = ArrayVolume(standard + more, (1.4, 1.4, 2.5))
    noise = known(low.shape, float(np.hypot(10.0, spared)))
    basis = learn_basis(low, noise, shape=SHAPE, classes=8)
    inside = truth > -300

    def error(hu: NDArray[np.float32]) -> float:
        return float(np.sqrt(np.square((hu - standard)[inside]).mean()))

    kept, all_gone = (error(whole(low, noise, basis, target_noise=target)) for target in (10.0, 0.0))
    assert kept < 0.95 * error(low.hu)
    assert kept < most * all_gone


def test_of_nothing_but_noise_little_is_left() -> None:
    volume = ArrayVolume(white_noise((64, 64, 10)))
    noise = known(volume.shape, 30.0)
    left = whole(volume, noise, learn_basis(volume, noise, shape=SHAPE, classes=4), tau=2.7, target_noise=0.0)
    assert left.std() < 0.15 * 30.0


def test_a_noiseless_series_comes_back_almost_unchanged_with_a_note(truth: NDArray[np.float32]) -> None:
    volume = ArrayVolume(np.round(truth), (1.4, 1.4, 2.5))
    noise = fit_noise(volume)
    assert noise.notes
    clean = whole(volume, noise, learn_basis(volume, noise, shape=SHAPE, classes=4))
    assert np.sqrt(np.mean((clean - volume.hu) ** 2)) < 1.0


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_fewer_slices_than_a_patch_spans_are_denoised_all_the_same(slices: int) -> None:
    truth = body(128, slices)
    volume = ArrayVolume(truth + white_noise(truth.shape), (1.4, 1.4, 2.5))
    noise = known(volume.shape, 30.0)
    shape = patch_shape(volume.shape, volume.spacing)
    clean = whole(volume, noise, learn_basis(volume, noise, shape=shape, classes=4))
    inside = truth > -300
    assert (clean - truth)[inside].std() < 0.8 * 30.0


@pytest.mark.parametrize("slices", [1, 2])
def test_one_or_two_slices_are_denoised_blind(slices: int) -> None:
    truth = body(256, slices)
    before, after, _ = estimated(truth, truth + white_noise(truth.shape))
    assert after < 0.8 * before


def test_an_already_denoised_series_is_hardly_changed_and_says_so(truth: NDArray[np.float32]) -> None:
    left = gaussian_filter(white_noise(truth.shape), (2, 2, 0))
    before, after, noise = estimated(truth, truth + left)
    assert noise.notes
    assert after < 1.1 * before < 1.1 * 5


@pytest.mark.parametrize(("strength", "in_body", "in_lung"), [(0.3, 0.6, 0.7), (0.6, 0.7, 0.8), (0.9, 0.9, 1.0)])
def test_the_texture_of_an_iterative_reconstruction_is_denoised_and_neither_body_nor_lung_made_worse(
    truth: NDArray[np.float32], strength: float, in_body: float, in_lung: float
) -> None:
    # A scanner's strength setting blends filtered back-projection with an image of least total variation.
    beam = ParallelBeam.around((128, 128), (2.8, 2.8))
    slices = np.moveaxis(truth, -1, 0)
    plain = slices + image_noise(slices, beam, Dose(1e4))
    sigma = float((plain - slices)[slices > -300].std())
    smooth = np.stack([denoise_tv_chambolle(image / sigma, weight=0.8) * sigma for image in plain.astype(np.float64)])
    hu = np.maximum(np.moveaxis((1 - strength) * plain + strength * smooth, 0, -1), -1000).astype(np.float32)
    clean, _ = blind(hu, (2.8, 2.8, 2.5))
    lung = (truth > -950) & (truth < -600)
    for region, most in ((truth > -300, in_body), (lung, in_lung)):
        before, after = (np.sqrt(np.mean((image - truth)[region] ** 2)) for image in (hu, clean))
        assert after < most * before


def test_metal_far_beyond_3071_stays_and_the_noise_around_it_falls() -> None:
    truth = body()
    truth[40:44, 62:66] = 12000.0
    hu = truth + white_noise(truth.shape)
    before, after, noise = estimated(truth, hu)
    assert after < 0.8 * before
    volume = ArrayVolume(hu, (1.4, 1.4, 2.5))
    clean = whole(volume, noise, learn_basis(volume, noise, shape=SHAPE, classes=8))
    assert abs(np.median(clean[41:43, 63:65]) - 12000) < 60


def test_ten_millimetre_slices_lose_noise_and_are_not_made_worse_where_they_share_no_anatomy() -> None:
    thick = body(128, 40)[..., ::5]
    before, after, _ = estimated(thick, thick + white_noise(thick.shape))
    assert after < 0.85 * before
    strange = np.concatenate([body(96 + 16 * index, 1)[:96, :96] for index in range(5)], axis=2)
    before, after, _ = estimated(strange, strange + white_noise(strange.shape))
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
def test_impossible_settings_are_refused(noisy: ArrayVolume, basis: PatchBasis, wrong: dict[str, float]) -> None:
    with pytest.raises(CtbasisError):
        whole(noisy, known(noisy.shape, 30.0), basis, **wrong)
