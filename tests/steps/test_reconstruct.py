"""The reconstruct step writes the factors as DICOM series."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest

from ctbasis.dicom.compression import SYNTAXES
from ctbasis.errors import CtbasisError
from ctbasis.matrix import store as store_module
from ctbasis.parameters import OutputPlan
from ctbasis.steps.reconstruct import reconstruct, run_step

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import FileDataset

    WriteSeries = Callable[..., list[Path]]
    WriteBasis = Callable[..., str]


def stored_pixels(paths: Sequence[Path]) -> NDArray[Any]:
    return np.stack([pydicom.dcmread(path).pixel_array for path in paths])


def files(out: Path) -> list[Path]:
    return sorted(out.rglob("*.dcm"))


@pytest.mark.parametrize(
    ("bits", "signed", "slope", "intercept"),
    [(16, True, 1, -1024), (12, False, 1, -1024), (13, True, 1, 0), (16, False, 0.5, -1024), (16, True, 0.1, 0)],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_at_full_rank_the_stored_pixels_equal_the_sources_with_padding_and_values_below_air(
    write_series: WriteSeries,
    write_basis: WriteBasis,
    tmp_path: Path,
    volume: NDArray[np.int16],
    *,
    bits: int,
    signed: bool,
    slope: float,
    intercept: float,
    dtype: type,
) -> None:
    hu = volume.astype(float)
    hu[:, 0, :5] = intercept  # below air where the intercept is
    hu[:, -1, :] = -1010
    if signed:
        hu[:, :, 0] = -2000 * slope + intercept

    def pad(dataset: FileDataset, _: int) -> None:
        if signed:
            dataset.add_new("PixelPaddingValue", "SS", -2000)

    source = write_series(
        tmp_path / "source",
        np.maximum(hu, intercept) if not signed else hu,
        edit=pad,
        BitsStored=bits,
        HighBit=bits - 1,
        PixelRepresentation=int(signed),
        RescaleSlope=slope,
        RescaleIntercept=intercept,
    )
    reconstruct(write_basis(source, rank=len(source), dtype=dtype), tmp_path / "out", rank=len(source))
    np.testing.assert_array_equal(stored_pixels(files(tmp_path / "out")), stored_pixels(source))


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_below_full_rank_the_pixels_are_the_rank_k_matrix_rounded(
    write_series: WriteSeries, write_basis: WriteBasis, tmp_path: Path, volume: NDArray[np.int16], rank: int
) -> None:
    volume = np.maximum(volume, -1000)
    source = write_series(tmp_path / "source", volume)
    reconstruct(write_basis(source, rank=5), tmp_path / "out", rank=rank)
    U, s, Vt = np.linalg.svd(volume.reshape(len(volume), -1).T.astype(float), full_matrices=False)
    expected = (U[:, :rank] * s[:rank] @ Vt[:rank]).T.reshape(volume.shape)
    hu = stored_pixels(files(tmp_path / "out")) - 1024.0
    assert np.abs(hu - expected).max() <= 0.5 + 1e-2


def test_a_voxel_that_was_set_aside_is_restored_at_any_rank(
    write_series: WriteSeries, write_basis: WriteBasis, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    volume[:, :3, :] = -1024
    source = write_series(tmp_path / "source", volume)
    reconstruct(write_basis(source, rank=2), tmp_path / "out", rank=1)
    np.testing.assert_array_equal(stored_pixels(files(tmp_path / "out"))[:, :3], 0)


def test_values_that_need_more_bits_than_the_source_has_are_stored(
    write_series: WriteSeries, write_basis: WriteBasis, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    # One slice is three times as bright as the others except in a patch, whose triple does not fit 12 bits.
    volume = np.full_like(volume, 500)
    volume[:, 10:20, 10:14] = 2600
    volume[0] = np.minimum(volume[0] * 3, 3071)
    source = write_series(tmp_path / "source", volume, BitsStored=12, HighBit=11, PixelRepresentation=0)
    U, s, Vt = np.linalg.svd(volume.reshape(len(volume), -1).T.astype(float), full_matrices=False)
    rank_1 = U[:, :1] * s[:1] @ Vt[:1]
    assert rank_1.max() > 3071
    reconstruct(write_basis(source, rank=1), tmp_path / "out", rank=1)
    hu = stored_pixels(files(tmp_path / "out")).reshape(len(volume), -1).T - 1024.0
    assert np.abs(hu - rank_1).max() <= 0.5 + 1e-2


@pytest.mark.parametrize("compression", ["rle", "jpeg-ls", "jpeg2000"])
@pytest.mark.parametrize("signed", [0, 1])
def test_compressed_pixels_equal_the_uncompressed_ones(
    write_series: WriteSeries,
    write_basis: WriteBasis,
    tmp_path: Path,
    compression: str,
    signed: int,
) -> None:
    volume = np.random.default_rng(0).integers(-1000, 2000, (24, 48, 32)).astype(np.int16)
    volume[:, 0, 0] = 3000 if signed else 32767
    source = write_series(tmp_path / "source", volume, PixelRepresentation=signed)
    basis = write_basis(source, rank=2)
    reconstruct(basis, tmp_path / "plain", rank=2, basis_images=tmp_path / "plain-basis")
    reconstruct(basis, tmp_path / "packed", rank=2, compression=compression, basis_images=tmp_path / "packed-basis")
    for kind in ("", "-basis"):
        plain, packed = files(tmp_path / f"plain{kind}"), files(tmp_path / f"packed{kind}")
        assert len(plain) == len(packed) > 0
        for before, after in zip(map(pydicom.dcmread, plain), map(pydicom.dcmread, packed), strict=True):
            assert after.file_meta.TransferSyntaxUID == SYNTAXES[compression][0]
            assert after.PixelRepresentation == before.PixelRepresentation
            np.testing.assert_array_equal(after.pixel_array, before.pixel_array)
            assert after.get("LossyImageCompression") != "01"
            assert after.SOPInstanceUID == before.SOPInstanceUID


def test_an_unknown_compression_is_refused_before_anything_is_written(
    write_series: WriteSeries, write_basis: WriteBasis, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    basis = write_basis(write_series(tmp_path / "source", volume), rank=1)
    with pytest.raises(CtbasisError, match="none, rle, jpeg-ls, jpeg2000"):
        reconstruct(basis, tmp_path / "out", rank=1, compression="zip")
    assert not (tmp_path / "out").exists()


def test_images_too_small_for_jpeg_2000_are_refused_by_name(
    write_series: WriteSeries, write_basis: WriteBasis, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    basis = write_basis(write_series(tmp_path / "source", volume), rank=1)
    with pytest.raises(CtbasisError, match="too small for jpeg2000"):
        reconstruct(basis, tmp_path / "out", rank=1, compression="jpeg2000")


def test_a_header_that_cannot_be_written_is_refused_without_naming_its_values(
    write_series: WriteSeries, write_basis: WriteBasis, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    def spoil(dataset: FileDataset, _: int) -> None:
        dataset.add_new("SeriesNumber", "LO", "Doe^John")

    basis = write_basis(write_series(tmp_path / "source", volume, edit=spoil), rank=1)
    with pytest.raises(CtbasisError, match="header of slice 1 cannot be written") as refused:
        reconstruct(basis, tmp_path / "out", rank=1)
    assert "Doe" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_each_source_series_becomes_one_derived_series_in_order(
    write_series: WriteSeries, write_basis: WriteBasis, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    sources = [write_series(tmp_path / "a", volume[:2]), write_series(tmp_path / "b", volume[2:])]
    out = tmp_path / "out"
    written = reconstruct(write_basis(*sources, rank=4), out, rank=4)
    assert [entry.slices for entry in written] == [2, 4]
    for entry, source in zip(written, sources, strict=True):
        images = [pydicom.dcmread(path) for path in files(out / entry.folder)]
        originals = [pydicom.dcmread(path) for path in source]
        assert {image.SeriesInstanceUID for image in images} == {entry.SeriesInstanceUID}
        assert {original.SeriesInstanceUID for original in originals} == {entry.source}
        assert [image.ImagePositionPatient for image in images] == [ds.ImagePositionPatient for ds in originals]
        assert [image.SourceImageSequence[0].ReferencedSOPInstanceUID for image in images] == [
            original.SOPInstanceUID for original in originals
        ]
    assert len({pydicom.dcmread(path).SOPInstanceUID for path in files(out)}) == 6


def derived_uids(out: Path) -> tuple[list[str], list[str]]:
    """Return SOPInstanceUID and SeriesInstanceUID of every file in the order of the file names."""
    images = [pydicom.dcmread(path) for path in files(out)]
    return [image.SOPInstanceUID for image in images], [image.SeriesInstanceUID for image in images]


def test_one_sop_instance_uid_and_a_series_instance_uid_for_each_slice_give_one_valid_series(
    write_series: WriteSeries, write_basis: WriteBasis, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    def edit(dataset: FileDataset, z: int) -> None:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        dataset.SeriesInstanceUID, dataset.SeriesNumber = f"1.2.4.{z}", 10 + z

    out = tmp_path / "out"
    (written,) = reconstruct(write_basis(write_series(tmp_path / "a", volume, edit=edit), rank=4), out, rank=4)
    instances, series = derived_uids(out)
    assert len(set(instances)) == len(volume)
    assert set(series) == {written.SeriesInstanceUID}
    assert len({pydicom.dcmread(path).SeriesNumber for path in files(out)}) == 1


def test_two_patients_in_one_series_get_a_derived_series_each(
    write_series: WriteSeries, write_basis: WriteBasis, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    def edit(dataset: FileDataset, _: int) -> None:
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"

    sources = [
        write_series(tmp_path / name, images, edit=edit, SeriesInstanceUID="1.2.4", PatientID=f"patient {name}")
        for name, images in (("0", volume[:3]), ("1", volume[3:]))
    ]
    out = tmp_path / "out"
    written = reconstruct(write_basis(*sources, rank=4), out, rank=4)
    assert [entry.source for entry in written] == ["1.2.4", "1.2.4"]
    for number, entry in enumerate(written):
        images = [pydicom.dcmread(path) for path in files(out / entry.folder)]
        assert {image.PatientID for image in images} == {f"patient {number}"}
        assert {image.SeriesInstanceUID for image in images} == {entry.SeriesInstanceUID}
    instances, series = derived_uids(out)
    assert (len(set(instances)), len(set(series))) == (len(volume), 2)


def test_more_slices_than_a_column_group_are_all_written(
    write_series: WriteSeries,
    write_basis: WriteBasis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    volume: NDArray[np.int16],
) -> None:
    monkeypatch.setattr(store_module, "COLUMN_CHUNK", 4)
    source = write_series(tmp_path / "source", volume)
    reconstruct(write_basis(source, rank=6), tmp_path / "out", rank=6)
    np.testing.assert_array_equal(stored_pixels(files(tmp_path / "out")), stored_pixels(source))


def test_a_second_run_gives_the_same_files_and_another_rank_replaces_them(
    write_series: WriteSeries, write_basis: WriteBasis, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    basis, out = write_basis(write_series(tmp_path / "source", volume), rank=3), tmp_path / "out"

    def run(rank: int) -> dict[Path, bytes]:
        reconstruct(basis, out, rank=rank)
        return {path: path.read_bytes() for path in files(out)}

    first = run(3)
    assert run(3) == first
    assert run(2).keys() == first.keys()
    assert "Rank-2" in pydicom.dcmread(files(out)[0]).ContributingEquipmentSequence[0].ContributionDescription
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_single_series_is_written_to_the_folder_itself(
    write_series: WriteSeries, write_basis: WriteBasis, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    reconstruct(write_basis(write_series(tmp_path / "source", volume), rank=1), tmp_path / "out", rank=1)
    expected = [f"slice-{number:04d}.dcm" for number in range(1, len(volume) + 1)]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == expected


def test_a_folder_with_a_file_that_ctbasis_did_not_write_is_not_replaced(
    write_series: WriteSeries, write_basis: WriteBasis, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    basis, out = write_basis(write_series(tmp_path / "source", volume), rank=1), tmp_path / "out"
    reconstruct(basis, out, rank=1)
    (out / "notes.txt").write_text("a week of contouring")
    with pytest.raises(CtbasisError, match=r"notes\.txt, which ctbasis did not write"):
        reconstruct(basis, out, rank=1)
    assert (out / "notes.txt").read_text() == "a week of contouring"


def test_a_folder_that_ctbasis_did_not_write_is_unchanged(
    write_series: WriteSeries, write_basis: WriteBasis, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    source = write_series(tmp_path / "source", volume)
    before = [path.read_bytes() for path in source]
    with pytest.raises(CtbasisError, match=r"slice-0000\.dcm, which ctbasis did not write"):
        reconstruct(write_basis(source, rank=1), tmp_path / "source", rank=1)
    assert [path.read_bytes() for path in source] == before


def test_an_empty_folder_is_filled(
    write_series: WriteSeries, write_basis: WriteBasis, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    (tmp_path / "out").mkdir()
    reconstruct(write_basis(write_series(tmp_path / "source", volume), rank=1), tmp_path / "out", rank=1)
    assert len(files(tmp_path / "out")) == len(volume)


@pytest.mark.parametrize("rank", [0, -5, 4])
def test_a_rank_that_is_not_stored_is_refused_and_nothing_is_written(
    write_series: WriteSeries, write_basis: WriteBasis, tmp_path: Path, volume: NDArray[np.int16], rank: int
) -> None:
    basis = write_basis(write_series(tmp_path / "source", volume), rank=3)
    with pytest.raises(CtbasisError, match="holds 3 basis images"):
        reconstruct(basis, tmp_path / "out", rank=rank)
    assert not (tmp_path / "out").exists()


def test_a_failure_leaves_the_former_series_complete_and_no_partial_one(
    write_series: WriteSeries,
    write_basis: WriteBasis,
    tmp_path: Path,
    volume: NDArray[np.int16],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    basis, out = write_basis(write_series(tmp_path / "source", volume), rank=3), tmp_path / "out"
    reconstruct(basis, out, rank=3)
    before = {path: path.read_bytes() for path in files(out)}
    write = pydicom.dcmwrite
    calls = iter(range(100))

    def full_disk(*arguments: Any, **options: Any) -> None:
        if next(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*arguments, **options)

    monkeypatch.setattr(pydicom, "dcmwrite", full_disk)
    with pytest.raises(CtbasisError, match="No space left"):
        reconstruct(basis, out, rank=2)
    assert {path: path.read_bytes() for path in files(out)} == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


@pytest.mark.data
def test_a_real_series_is_restored_bit_for_bit_at_full_rank(
    real_data: Callable[[str], Path], write_basis: WriteBasis, tmp_path: Path
) -> None:
    def height(path: Path) -> float:
        return float(pydicom.dcmread(path, specific_tags=["ImagePositionPatient"]).ImagePositionPatient[2])

    source = sorted(real_data("lidc-idri-0001").rglob("*.dcm"), key=height)[60:72]
    reconstruct(write_basis(source, rank=12), tmp_path / "out", rank=12)
    np.testing.assert_array_equal(stored_pixels(files(tmp_path / "out")), stored_pixels(source))


def test_the_artifact_of_the_other_mode_says_why_it_is_empty(
    write_series: WriteSeries, write_basis: WriteBasis, tmp_path: Path, volume: NDArray[np.int16]
) -> None:
    """Kubeflow Pipelines after 2.17 fails a step that does not write an output which it declares."""
    basis = write_basis(write_series(tmp_path / "source", volume), rank=2)
    places = {"basis_images": tmp_path / "basis-images", "noise": tmp_path / "noise"}
    run_step(basis, "", tmp_path / "out", OutputPlan(), rank=2, **places)
    assert len(files(tmp_path / "basis-images")) == 2
    assert [path.name for path in (tmp_path / "noise").iterdir()] == ["README.txt"]
    assert "patch mode" in (tmp_path / "noise" / "README.txt").read_text()
