"""Patch mode against known truth: an artificial body, and noise of known sigma and covariance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.lib.stride_tricks import sliding_window_view
from scipy.ndimage import binary_erosion, gaussian_filter
from skimage.restoration import denoise_tv_chambolle

from ctbasis.errors import CtbasisError
from ctbasis.patch.basis import ROOM, PatchBasis, learn, whitening
from ctbasis.patch.denoise import denoise, put_back
from ctbasis.patch.noise import Noise, estimate
from ctbasis.patch.rows import Grid, chequered, patch_shape, places
from ctbasis.patch.volume import ArrayVolume, slabs
from ctbasis.simulate.dose import Dose, image_noise
from ctbasis.simulate.nodules import Contrast, InsertedNodule, insert
from ctbasis.simulate.projection import ParallelBeam

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHAPE = (5, 5, 3)


def body(edge: int = 128, slices: int = 12) -> NDArray[np.float32]:
    """A disc of tissue, two lungs with vessels, a spine: HU, (rows, columns, slices)."""
    y, x, z = np.mgrid[0:edge, 0:edge, 0:slices].astype(np.float32)
    middle = edge / 2
    hu = np.full(y.shape, -1000.0, np.float32)
    hu[((y - middle) / 0.34) ** 2 + ((x - middle) / 0.44) ** 2 < edge**2] = 40.0
    for side in (-1, 1):
        lung = ((y - middle + 6) / 0.2) ** 2 + ((x - middle - side * 0.21 * edge) / 0.13) ** 2 < edge**2
        hu[lung] = -850.0
        vessel = (y - middle - 0.5 * z) ** 2 + (x - middle - side * (0.21 * edge + z)) ** 2 < 9
        hu[vessel] = 20.0
    hu[(y - 1.32 * middle) ** 2 + (x - middle) ** 2 < 36] = 400.0
    return gaussian_filter(hu, (0.7, 0.7, 0.0))


def white_noise(shape: tuple[int, ...], sigma: float = 30.0) -> NDArray[np.float32]:
    return np.random.default_rng(1).normal(0, sigma, shape).astype(np.float32)


def known(shape: tuple[int, int, int], sigma: float) -> Noise:
    covariance = np.zeros((9, 9, 5))
    covariance[4, 4, 2] = 1.0
    cells = (-(-shape[0] // 8), -(-shape[1] // 8), shape[2])
    return Noise(np.full(cells, sigma, np.float32), covariance, 1000)


def sigma_errors(found: NDArray[np.float32], true: NDArray[np.float32], hu: NDArray[np.float32]) -> tuple[float, float]:
    """Median of |sigma / true - 1| in body and lung."""
    error = np.abs(found / true - 1)
    return float(np.median(error[hu > -300])), float(np.median(error[(hu > -950) & (hu < -600)]))


def whole(volume: ArrayVolume, noise: Noise, basis: PatchBasis, **options: object) -> NDArray[np.float32]:
    return np.concatenate([hu for _, hu in denoise(volume, noise, basis, **options)])  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def truth() -> NDArray[np.float32]:
    return body()


@pytest.fixture(scope="module")
def noisy(truth: NDArray[np.float32]) -> ArrayVolume:
    return ArrayVolume(truth + white_noise(truth.shape), (1.4, 1.4, 2.5))


@pytest.fixture(scope="module")
def basis(noisy: ArrayVolume) -> PatchBasis:
    return learn(noisy, known(noisy.shape, 30.0), shape=SHAPE, classes=8)


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_patches_put_back_unchanged_give_the_slab_at_every_border(stride: int) -> None:
    slab = white_noise((5, 17, 6))
    grid = Grid(SHAPE, (5, 17, 6))
    patches = grid.line(0, places(17, 5, stride))
    rows = grid.rows(slab, patches)
    total, certainty = np.zeros_like(slab), np.zeros_like(slab)
    certainty.reshape(-1)[patches] = np.linspace(0.5, 2, len(rows))
    grid.add_back(total, rows, certainty.reshape(-1)[patches], patches)
    weight = grid.held(certainty)
    assert (weight > 0).all()
    np.testing.assert_allclose(total / weight, slab, rtol=1e-5)


@pytest.mark.parametrize("shape", [(5, 5, 3), (4, 5, 2), (1, 2, 1)])
def test_a_patch_is_its_voxels_from_first_to_last_with_its_middle_among_them(shape: tuple[int, int, int]) -> None:
    slab = white_noise((9, 11, 6))
    grid = Grid(shape, (9, 11, 6))
    patches = grid.line(2, np.array([1, 4]))
    windows = sliding_window_view(slab, shape)[2, [1, 4]].reshape(-1, *shape)
    np.testing.assert_array_equal(grid.rows(slab, patches), windows.reshape(len(windows), -1))
    middle = tuple(edge // 2 for edge in shape)
    np.testing.assert_array_equal(grid.middles(slab, patches), windows[:, *middle])
    certainty = np.zeros_like(slab)
    certainty[2, 1, 0], certainty[3, 2, 1] = 0.5, 2.0
    expected = np.zeros_like(slab)
    expected[2 : 2 + shape[0], 1 : 1 + shape[1], : shape[2]] += 0.5
    expected[3 : 3 + shape[0], 2 : 2 + shape[1], 1 : 1 + shape[2]] += 2.0
    np.testing.assert_array_equal(grid.held(certainty), expected)


def test_places_reach_the_last_voxel_whatever_the_stride() -> None:
    for length in range(5, 14):
        for stride in range(1, 6):
            held = {voxel for place in places(length, 5, stride) for voxel in range(place, place + 5)}
            assert held == set(range(length))


def test_every_other_place_still_holds_every_voxel_from_end_to_end() -> None:
    every = places(23, 5, 1)
    held = np.zeros((23, 23), np.intp)
    for line in every:
        for place in chequered(every, line, every[-1]):
            held[line : line + 5, place : place + 5] += 1
    assert held.min() >= 1
    assert held[5:-5, 5:-5].min() >= 12
    assert held[5:-5, 5:-5].max() <= 13


def test_slabs_do_every_row_once() -> None:
    parts = list(slabs(70, height=32, halo=4))
    assert [row for part in parts for row in range(part.first, part.stop)] == list(range(70))
    assert all(part.low <= part.first and part.high >= part.stop for part in parts)


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
    noise = estimate(volume, reach=tuple(edge - 1 for edge in SHAPE))
    basis = learn(volume, noise, shape=SHAPE)

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
    assert put_back(30.0, 0.5, 10.0) == pytest.approx(100 / 350)


@pytest.mark.parametrize(("spared", "most"), [(12.0, 0.97), (20.0, 1.0), (40.0, 1.01)])
def test_no_series_of_less_dose_is_further_from_the_standard_one_after(
    truth: NDArray[np.float32], spared: float, most: float
) -> None:
    # The scan of standard dose has 10 HU of its own, which must not be held against the one that keeps it.
    standard = truth + white_noise(truth.shape, 10.0)
    more = np.random.default_rng(2).normal(0, spared, truth.shape).astype(np.float32)
    low = ArrayVolume(standard + more, (1.4, 1.4, 2.5))
    noise = known(low.shape, float(np.hypot(10.0, spared)))
    basis = learn(low, noise, shape=SHAPE, classes=8)
    inside = truth > -300

    def error(hu: NDArray[np.float32]) -> float:
        return float(np.sqrt(np.square((hu - standard)[inside]).mean()))

    kept, all_gone = (error(whole(low, noise, basis, target_noise=target)) for target in (10.0, 0.0))
    assert kept < 0.95 * error(low.hu)
    assert kept < most * all_gone


def test_a_short_series_has_no_more_classes_than_patches_for_their_bases() -> None:
    volume = ArrayVolume(body(64, 10))
    few = learn(volume, known(volume.shape, 30.0), shape=SHAPE, classes=64)
    assert 1 < few.classes <= 60 * 60 * 8 / (ROOM * 75)


def test_of_nothing_but_noise_little_is_left() -> None:
    volume = ArrayVolume(white_noise((64, 64, 10)))
    noise = known(volume.shape, 30.0)
    left = whole(volume, noise, learn(volume, noise, shape=SHAPE, classes=4), tau=2.7, target_noise=0.0)
    assert left.std() < 0.15 * 30.0


def test_a_basis_is_what_it_was_when_it_is_read_again(tmp_path: object, basis: PatchBasis, noisy: ArrayVolume) -> None:
    uri = f"{tmp_path}/basis.zarr"
    basis.save(uri)
    again = PatchBasis.open(uri)
    noise = known(noisy.shape, 30.0)
    np.testing.assert_array_equal(whole(noisy, noise, again), whole(noisy, noise, basis))
    assert again.provenance == basis.provenance


def test_vectors_are_orthonormal_and_whitening_whitens(basis: PatchBasis) -> None:
    (texture,) = basis.textures
    for vectors in texture.vectors:
        np.testing.assert_allclose(vectors.T @ vectors, np.eye(len(vectors)), atol=1e-4)
    rng = np.random.default_rng(0)
    root = rng.normal(size=(20, 20))
    covariance = root @ root.T + 3 * np.eye(20)
    W, back = whitening(covariance)
    np.testing.assert_allclose(W @ covariance @ W, np.eye(20), atol=1e-8)
    np.testing.assert_allclose(W @ back, np.eye(20), atol=1e-8)


@pytest.mark.parametrize(
    ("photons", "soft"),
    [
        (1e4, False),
        (2e4, False),
        (6e4, False),
        (1e4, True),
        (2e4, True),
        (6e4, True),
    ],
)
def test_sigma_is_found_within_ten_percent_in_body_and_fifteen_in_lung(photons: float, soft: bool) -> None:
    edge = 256
    truth = body(edge, 12)
    beam = ParallelBeam.around((edge, edge), (1.4, 1.4), 200)
    added = np.moveaxis(image_noise(np.moveaxis(truth, -1, 0), beam, Dose(photons)), 0, -1)
    if soft:
        added = gaussian_filter(added, (0.8, 0.8, 0))
    volume = ArrayVolume(np.maximum(truth + added, -1000), (1.4, 1.4, 2.5))
    found = estimate(volume).sigma_rows(0, edge, edge)
    # All slices but for the vessels are one phantom's: their mean square is the variance, but for its own noise.
    true = np.sqrt(gaussian_filter((added**2).mean(axis=2), 3.0))[..., None]
    in_body, in_lung = sigma_errors(found, true, truth)
    assert in_body < 0.10
    assert in_lung < 0.15


def test_a_noiseless_series_comes_back_almost_unchanged_with_a_note(truth: NDArray[np.float32]) -> None:
    volume = ArrayVolume(np.round(truth), (1.4, 1.4, 2.5))
    noise = estimate(volume)
    assert noise.notes
    clean = whole(volume, noise, learn(volume, noise, shape=SHAPE, classes=4))
    assert np.sqrt(np.mean((clean - volume.hu) ** 2)) < 1.0


def test_a_patch_is_no_larger_than_the_volume_and_fewer_slices_where_they_are_thick() -> None:
    assert patch_shape((512, 512, 200), (0.7, 0.7, 0.7)) == (5, 5, 5)
    assert patch_shape((512, 512, 200), (0.7, 0.7, 5.0)) == (5, 5, 3)
    assert patch_shape((512, 512, 2), (0.7, 0.7, 5.0)) == (5, 5, 2)
    assert patch_shape((512, 512, 1), (0.7, 0.7, 5.0)) == (5, 5, 1)


@pytest.mark.parametrize("slices", [1, 2, 3])
def test_fewer_slices_than_a_patch_spans_are_denoised_all_the_same(slices: int) -> None:
    truth = body(128, slices)
    volume = ArrayVolume(truth + white_noise(truth.shape), (1.4, 1.4, 2.5))
    noise = known(volume.shape, 30.0)
    shape = patch_shape(volume.shape, volume.spacing)
    clean = whole(volume, noise, learn(volume, noise, shape=shape, classes=4))
    inside = truth > -300
    assert (clean - truth)[inside].std() < 0.8 * 30.0


def blind(
    hu: NDArray[np.float32], spacing: tuple[float, float, float] = (1.4, 1.4, 2.5), **options: object
) -> tuple[NDArray[np.float32], Noise]:
    """Denoise by what is found in the volume itself; return the result and the noise that was found."""
    volume = ArrayVolume(hu, spacing)
    shape = patch_shape(volume.shape, volume.spacing)
    noise = estimate(volume, reach=(shape[0] - 1, shape[1] - 1, shape[2] - 1))
    return whole(volume, noise, learn(volume, noise, shape=shape, classes=8), **options), noise


def estimated(truth: NDArray[np.float32], hu: NDArray[np.float32], **options: object) -> tuple[float, float, Noise]:
    """Denoise blind; return RMSE over the body before and after, HU, and the noise that was found."""
    clean, noise = blind(hu, **options)
    assert np.isfinite(clean).all()
    inside = (truth > -300) & (truth < 1000)
    before, after = ((image - truth)[inside] for image in (hu, clean))
    return float(np.sqrt(np.mean(before**2))), float(np.sqrt(np.mean(after**2))), noise


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
    clean = whole(volume, noise, learn(volume, noise, shape=SHAPE, classes=8))
    assert abs(np.median(clean[41:43, 63:65]) - 12000) < 60


def test_padding_around_a_cropped_field_of_view_is_not_taken_for_noise_or_tissue() -> None:
    truth = body()
    y, x = np.mgrid[:128, :128] - 63.5
    outside = y**2 + x**2 > 48**2
    hu = truth + white_noise(truth.shape)
    hu[outside] = truth[outside] = -2048.0
    before, after, noise = estimated(truth, hu)
    assert after < 0.8 * before
    found = noise.sigma_rows(0, 128, 128)[truth > -300]
    assert 0.85 * 30 < np.median(found) < 1.15 * 30


def test_ten_millimetre_slices_lose_noise_and_are_not_made_worse_where_they_share_no_anatomy() -> None:
    thick = body(128, 40)[..., ::5]
    before, after, _ = estimated(thick, thick + white_noise(thick.shape))
    assert after < 0.85 * before
    strange = np.concatenate([body(96 + 16 * index, 1)[:96, :96] for index in range(5)], axis=2)
    before, after, _ = estimated(strange, strange + white_noise(strange.shape))
    assert after < before


@pytest.mark.parametrize("rows", [97, 98, 99, 100])
def test_a_last_slab_without_a_place_for_a_patch_is_learned_from_as_any_other(rows: int) -> None:
    volume = ArrayVolume(body(100)[:rows] + white_noise((rows, 100, 12)), (1.4, 1.4, 2.5))
    noise = known(volume.shape, 30.0)
    learned = learn(volume, noise, shape=SHAPE, classes=4)
    assert sum(learned.provenance["patches"]) > 0
    assert whole(volume, noise, learned).shape == volume.shape


def test_holes_in_sigma_are_filled_from_the_nearest_cell() -> None:
    sigma = np.full((4, 4, 2), 30.0, np.float32)
    sigma[0, 0], sigma[1, 1], sigma[2, 2] = np.nan, 0.0, -np.inf
    noise = Noise(sigma, known((32, 32, 2), 30.0).covariance, 10)
    np.testing.assert_array_equal(noise.sigma, np.full((4, 4, 2), 30.0))
    with pytest.raises(CtbasisError):
        Noise(np.zeros((4, 4, 2), np.float32), noise.covariance, 10)


def test_sigma_of_correlated_slices_is_found_within_a_fifth() -> None:
    truth = body(192, 16)
    kernel = np.array([0.25, 0.5, 0.25]) / np.sqrt(0.375)
    noise = np.apply_along_axis(np.convolve, 2, white_noise((192, 192, 18)), kernel, "valid")
    found = estimate(ArrayVolume(truth + noise, (1.4, 1.4, 1.0)))
    ratio = np.median(found.sigma_rows(0, 192, 192)[truth > -300]) / 30.0
    assert 0.8 < ratio < 1.2
    assert abs(found.covariance[4, 4, 3] - 2 / 3) < 0.15


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
