"""The chest phantom has the HU of a chest, varies along z like a chest, and is a CT series labelled as a phantom."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage
from scipy.ndimage import binary_erosion, uniform_filter
from skimage.measure import label

from ctbasis.dicom.instance import read_slices
from ctbasis.dicom.series import arrange
from ctbasis.dicom.set_aside import SetAside
from ctbasis.errors import CtbasisError
from ctbasis.simulate.phantom import NODULES, PIXEL_PADDING, Phantom, chest, write_chest, write_series

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    """Return the whole chest, 3 mm slices of 3 mm pixels."""
    return chest(101, 128, 128, spacing=3.0)


def test_lungs_fat_muscle_and_bone_have_their_hu(phantom: Phantom) -> None:
    hu = phantom.hu
    shares = {
        "air": ((hu < -950).mean(), 0.3, 0.7),
        "lung": (((hu > -950) & (hu < -700)).mean(), 0.05, 0.3),
        "fat": (((hu > -130) & (hu < -50)).mean(), 0.03, 0.3),
        "soft tissue": (((hu > 0) & (hu < 100)).mean(), 0.08, 0.4),
        "bone": ((hu > 300).mean(), 0.003, 0.05),
    }
    assert {name: low < share < high for name, (share, low, high) in shares.items()} == dict.fromkeys(shares, True)
    lung = hu[(hu > -950) & (hu < -700)]
    assert np.median(lung) == pytest.approx(-855, abs=15)
    assert hu.max() < 1000
    assert hu.min() >= -1000


def test_there_are_two_lungs_and_they_are_denser_at_the_back(phantom: Phantom) -> None:
    image = phantom.hu[40]
    parts = label((image > -950) & (image < -600), connectivity=1)
    sizes = np.bincount(parts.ravel())[1:]
    lungs = np.flatnonzero(sizes > 0.25 * sizes.max()) + 1
    assert len(lungs) == 2
    for part in lungs:
        rows = np.nonzero(parts == part)[0]
        front, back = np.quantile(rows, [0.25, 0.75])
        inside = (parts == part) & (image < -780)
        grid = np.arange(image.shape[0])[:, None] * np.ones_like(image)
        assert image[inside & (grid > back)].mean() > image[inside & (grid < front)].mean() + 15


def test_nearer_slices_resemble_each_other_more(phantom: Phantom) -> None:
    inside = phantom.hu.max(axis=0) > -900
    rows = phantom.hu[:, inside].astype(float)
    steps = [np.mean([np.corrcoef(rows[z], rows[z + gap])[0, 1] for z in range(10, 80, 7)]) for gap in (1, 3, 10)]
    assert steps[0] > 0.95
    assert steps[0] > steps[1] > steps[2]


def test_the_phantom_is_not_of_low_rank_so_that_a_truncated_svd_loses_anatomy(phantom: Phantom) -> None:
    s = np.linalg.svd(phantom.hu.reshape(len(phantom.hu), -1).astype(float), compute_uv=False)
    lost = np.sqrt((s[20:] ** 2).sum() / phantom.hu.size)
    assert lost > 10


def test_edges_are_anti_aliased(phantom: Phantom) -> None:
    skin = phantom.hu[50, :, 64]
    between = (skin > -900) & (skin < -300)
    assert between.any()


def test_every_nodule_is_at_its_listed_position() -> None:
    phantom = chest(301, 256, 256)
    assert [nodule.diameter for nodule in phantom.nodules] == [diameter for diameter, _ in NODULES]
    for nodule in phantom.nodules:
        at = phantom.hu[round(nodule.slice), round(nodule.row), round(nodule.column)]
        if nodule.diameter >= 4:
            assert at == pytest.approx(nodule.hu, abs=2)
        else:
            assert at > -500
        off = round(nodule.diameter + 4)
        around = phantom.hu[round(nodule.slice), round(nodule.row) - off : round(nodule.row) + off]
        assert (around < -780).any()


def test_the_same_seed_gives_the_same_phantom_and_another_seed_another_phantom() -> None:
    one, again, other = (chest(6, 64, 64, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.hu, again.hu)
    assert (one.hu != other.hu).any()
    # Only vessels, nodules and texture are drawn: the large organs stay.
    assert np.mean(np.abs(one.hu.astype(float) - other.hu) < 60) > 0.9


def test_fewer_slices_are_the_middle_of_the_chest() -> None:
    whole, part = chest(41, 64, 64, spacing=2.0), chest(5, 64, 64, spacing=2.0)
    np.testing.assert_array_equal(part.hu, whole.hu[18:23])


def test_structured_soft_tissue_has_structure_of_low_contrast_where_the_plain_phantom_is_uniform() -> None:
    plain, structured = (
        chest(12, 256, 256, spacing=3.0, structured=choice).hu.astype(float) for choice in (False, True)
    )
    quiet = {"organs": (plain > 35) & (plain < 70), "fat": (plain > -110) & (plain < -80)}
    for where in quiet.values():
        inside = np.stack([binary_erosion(image, np.ones((7, 7))) for image in where])
        # A noise model sees means over a patch, less the mean of its surroundings.
        seen = [uniform_filter(hu, (0, 3, 3)) - uniform_filter(hu, (0, 7, 7)) for hu in (plain, structured)]
        assert inside.sum() > 1000
        assert seen[1][inside].std() > max(4.0, 1.5 * seen[0][inside].std())
        added = structured - plain
        assert added[inside].std() < 25, "the structure is of low contrast"
        both = inside[1:] & inside[:-1]
        assert np.corrcoef(added[1:][both], added[:-1][both])[0, 1] > 0.4, "the structure continues in the next slice"


def test_lungs_and_bones_are_the_same_with_structured_soft_tissue(tmp_path: Path) -> None:
    plain, structured = (chest(4, 128, 128, spacing=9.0, structured=choice) for choice in (False, True))
    same = (plain.hu < -300) | (plain.hu > 250)
    # Voxels at a surface hold part of the soft tissue.
    assert (np.abs(plain.hu[same] - structured.hu[same]) < 20).mean() > 0.998
    uids = {
        pydicom.dcmread(write_series(phantom, tmp_path / f"{phantom.structured}")[0]).SeriesInstanceUID
        for phantom in (plain, structured)
    }
    assert len(uids) == 2


@pytest.mark.parametrize("size", [(0, 64, 64), (4, 4, 64), (4, 64, 7)])
def test_an_impossible_size_is_refused(size: tuple[int, int, int]) -> None:
    with pytest.raises(CtbasisError, match="phantom of"):
        chest(*size)
    with pytest.raises(CtbasisError, match="phantom of"):
        chest(4, 64, 64, spacing=0)


def test_the_series_is_read_back_as_one_ordered_series_without_anomalies(tmp_path: Path) -> None:
    files = write_chest(tmp_path / "phantom", slices=5, rows=64, columns=48, spacing=2.5)
    read = [entry for path in files for entry in read_slices(tmp_path / "phantom", path.name)]
    slices = [entry[0] for entry in read if not isinstance(entry, SetAside)]
    assert len(slices) == 5
    (series,) = arrange(slices)
    assert (series.spacing, series.gaps, series.tolerated) == (2.5, (), ())
    assert all(entry.tolerated == () for entry in slices)
    assert [entry.file for entry in series.slices] == [path.name for path in files]


def test_the_stored_hu_are_those_of_the_phantom_and_padding_is_outside_the_field_of_view(tmp_path: Path) -> None:
    phantom = chest(3, 64, 64)
    for image, path in zip(phantom.hu, write_series(phantom, tmp_path / "phantom"), strict=True):
        ds = pydicom.dcmread(path)
        stored = ds.pixel_array
        inside = phantom.field_of_view
        assert not inside.all()
        np.testing.assert_array_equal(stored[~inside], PIXEL_PADDING)
        np.testing.assert_array_equal(stored[inside] * ds.RescaleSlope + ds.RescaleIntercept, image[inside])
        assert ds.PixelPaddingValue == PIXEL_PADDING


def test_every_attribute_that_people_read_says_phantom(tmp_path: Path) -> None:
    ds = pydicom.dcmread(write_chest(tmp_path / "phantom", slices=1, rows=32, columns=32)[0])
    assert ds.PatientName == "Phantom^Chest"
    for keyword in (
        "PatientID",
        "PatientComments",
        "StudyDescription",
        "SeriesDescription",
        "ImageComments",
        "ManufacturerModelName",
    ):
        assert "phantom" in str(ds[keyword].value).lower()


def test_uids_are_valid_and_distinct_and_depend_on_the_seed(tmp_path: Path) -> None:
    def uids(name: str, seed: int) -> list[str]:
        files = write_chest(tmp_path / name, slices=3, rows=32, columns=32, seed=seed)
        found = [pydicom.dcmread(path) for path in files]
        assert all(ds.SOPClassUID == CTImageStorage for ds in found)
        assert len({ds.SeriesInstanceUID for ds in found}) == len({ds.StudyInstanceUID for ds in found}) == 1
        assert all(ds.SOPInstanceUID.is_valid for ds in found)
        return [ds.SOPInstanceUID for ds in found]

    one, again, other = uids("one", 1), uids("again", 1), uids("other", 2)
    assert one == again
    assert len(set(one) | set(other)) == 6


def test_an_interrupted_series_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    phantom = chest(2, 32, 32)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(pydicom.FileDataset, "save_as", full)
        with pytest.raises(OSError, match="No space"):
            write_series(phantom, tmp_path / "phantom")
    assert not list(tmp_path.iterdir())
    write_series(phantom, tmp_path / "phantom")
    with pytest.raises(CtbasisError, match="not empty"):
        write_series(phantom, tmp_path / "phantom")
