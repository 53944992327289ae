"""From DICOM files to the matrix A: values, order of the columns, files set aside, crashes, and errors."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from PIL import Image

from ctbasis.dicom import instance as instance_module
from ctbasis.dicom import resource_limits as limits_module
from ctbasis.dicom.excluded_voxels import excluded_voxels
from ctbasis.dicom.workers import Workers
from ctbasis.errors import CtbasisError
from ctbasis.matrix import columns as columns_module
from ctbasis.matrix import ingest as ingest_module
from ctbasis.matrix import store as store_module
from ctbasis.matrix.ingest import ingest
from ctbasis.matrix.store import MatrixStore
from ctbasis.matrix.volumes import read_volumes, write_volume
from ctbasis.simulate.awkward import enhanced_ct, stored_values, to_bytes
from ctbasis.sources.fetch import fetch
from ctbasis.storage.voxels import AIR, is_absent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from tests.conftest import WriteSeries


class Ingested:
    """The matrix and qc.json of one folder."""

    def __init__(self, folder: Path, out: Path, workers: int = 2) -> None:
        ingest(folder, str(out / "matrix.zarr"), out / "qc.json", workers=workers)
        self.store = MatrixStore.open(str(out / "matrix.zarr"))
        self.text = (out / "qc.json").read_text()
        self.qc: dict[str, Any] = json.loads(self.text)
        self.A = self.store.read_columns(slice(None))

    @property
    def hu(self) -> NDArray[Any]:
        """HU before voxels were excluded, (m, n)."""
        aside = self.store.read_aside(slice(None))
        return np.where(is_absent(aside), self.A, aside)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "series"


def as_columns(volume: NDArray[Any]) -> NDArray[Any]:
    return volume.reshape(len(volume), -1).T


def edit_at(index: int, **tags: Any) -> Callable[[Dataset, int], None]:
    def edit(ds: Dataset, z: int) -> None:
        if z == index:
            for keyword, value in tags.items():
                setattr(ds, keyword, value)

    return edit


def edit_all(**tags: Any) -> Callable[[Dataset, int], None]:
    """Return a function that sets attributes of every data set."""

    def edit(ds: Dataset, index: int) -> None:
        del index
        for keyword, value in tags.items():
            setattr(ds, keyword, value)

    return edit


def refusal(folder: Path, out: Path) -> str:
    """Return the message of a failing ingestion, after a check that no output and no patient data appear."""
    with pytest.raises(CtbasisError) as caught:
        ingest(folder, str(out / "matrix.zarr"), out / "qc.json", workers=2)
    assert not (out / "qc.json").exists()
    with pytest.raises(CtbasisError):
        MatrixStore.open(str(out / "matrix.zarr"))
    assert "Made" not in str(caught.value)
    assert "TEST-1" not in str(caught.value)
    return str(caught.value)


def test_a_series_becomes_columns_of_hu(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    write_series(folder, volume)
    result = Ingested(folder, tmp_path)
    assert result.store.dtype == np.int16
    assert result.store.image == (32, 24)
    np.testing.assert_array_equal(result.hu, as_columns(volume))
    excluded = np.stack([excluded_voxels(image, (0.7, 0.7)) for image in volume])
    np.testing.assert_array_equal(result.A, as_columns(np.where(excluded, AIR, volume)))
    assert [entry["outside"] for entry in result.qc["slices"]] == excluded.sum(axis=(1, 2)).tolist()
    (series,) = result.store.series
    assert (series.first, series.count, series.spacing, series.pixel_spacing) == (0, 6, 2.5, (0.7, 0.7))


def test_slices_are_ordered_by_position_whatever_their_names(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    paths = write_series(folder, volume)
    for path, name in zip(paths, "fcadbe", strict=True):
        path.rename(folder / name)
    result = Ingested(folder, tmp_path)
    np.testing.assert_array_equal(result.hu, as_columns(volume))
    assert [entry["file"] for entry in result.qc["slices"]] == list("fcadbe")
    assert [entry["position"] for entry in result.qc["slices"]] == [-100 + 2.5 * z for z in range(6)]


def test_the_header_of_every_column_is_its_file_without_pixel_data(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    paths = write_series(folder, volume)
    store = Ingested(folder, tmp_path).store
    for column, path in enumerate(paths):
        header, original = pydicom.dcmread(io.BytesIO(store.header(column))), pydicom.dcmread(path)
        del original.PixelData
        assert header == original
        assert header.file_meta == original.file_meta


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("count", [1, 7, 8, 9, 17])
def test_any_number_of_slices_and_workers_gives_the_same_matrix(
    tmp_path: Path, write_series: WriteSeries, count: int, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Groups of eight columns and blocks of 256 rows: several of both, and the last is incomplete.
    monkeypatch.setattr(store_module, "COLUMN_CHUNK", 8)
    monkeypatch.setattr(store_module, "BLOCK_ELEMENTS", 1)
    volume = np.random.default_rng(count).integers(-1100, 2000, (count, 31, 29))
    write_series(tmp_path / "series", volume)
    result = Ingested(tmp_path / "series", tmp_path, workers)
    assert all(group.stop - group.start <= 8 for group in result.store.column_groups)
    assert result.store.block_count == 4
    np.testing.assert_array_equal(result.hu, as_columns(volume))


def test_several_series_become_adjacent_columns(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    write_series(folder / "b", volume, SeriesNumber=2)
    write_series(folder / "a", volume[:4] + 10, SeriesNumber=3)
    result = Ingested(folder, tmp_path)
    np.testing.assert_array_equal(result.hu, np.hstack([as_columns(volume), as_columns(volume[:4] + 10)]))
    assert [(series.first, series.count) for series in result.store.series] == [(0, 6), (6, 4)]
    assert len({series.SeriesInstanceUID for series in result.store.series}) == 2


@pytest.mark.parametrize("declared", [63536, -2000])
def test_padding_is_stored_as_air_and_can_be_restored(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16], declared: int
) -> None:
    def edit(ds: Dataset, _: int) -> None:
        pixels = ds.pixel_array.copy()
        pixels[:3] = -2000
        ds.PixelData = pixels.tobytes()
        ds.add_new(0x00280120, "US" if declared > 0 else "SS", declared)

    write_series(folder, volume, edit=edit)
    result = Ingested(folder, tmp_path)
    expected = volume.copy()
    expected[:, :3] = -3024
    np.testing.assert_array_equal(result.hu, as_columns(expected))
    assert (result.A[: 3 * 24] == AIR).all()
    assert all(entry["padded"] == 72 for entry in result.qc["slices"])
    assert all(("wrong sign" in str(entry["tolerated"])) == (declared > 0) for entry in result.qc["slices"])


def test_padding_with_a_value_of_tissue_is_masked(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    volume[:, 5, :] = 0
    # 1024 is the stored value of 0 HU.
    write_series(folder, volume, PixelPaddingValue=1024)
    result = Ingested(folder, tmp_path)
    np.testing.assert_array_equal(result.hu, as_columns(volume))
    assert (result.A[as_columns(volume) == 0] == AIR).all()


def test_slices_with_different_rescale_parameters_are_converted_to_the_same_scale(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    def edit(ds: Dataset, z: int) -> None:
        if z % 2:
            ds.RescaleIntercept = -1000
            ds.PixelData = (volume[z] + 1000).astype("<i2").tobytes()

    write_series(folder, volume, edit=edit)
    np.testing.assert_array_equal(Ingested(folder, tmp_path).hu, as_columns(volume))


def test_a_fractional_slope_makes_the_matrix_float32(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    write_series(folder, volume, RescaleSlope=0.5)
    result = Ingested(folder, tmp_path)
    assert result.store.dtype == np.float32
    np.testing.assert_array_equal(result.hu, as_columns(volume))


def test_hu_beyond_int16_make_the_matrix_float32(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    high = np.maximum(volume.astype(np.int64), -1024)
    high[3, 0, 0] = 40_000
    write_series(folder, high, PixelRepresentation=0)
    result = Ingested(folder, tmp_path)
    assert result.store.dtype == np.float32
    np.testing.assert_array_equal(result.hu, as_columns(high))


def test_a_single_slice_is_one_column_and_is_reported(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    write_series(folder, volume[:1])
    result = Ingested(folder, tmp_path)
    assert (result.store.rows, result.store.cols) == (32 * 24, 1)
    assert "one slice" in str(result.qc["series"][0]["tolerated"])


def test_a_missing_slice_is_reported_as_a_gap(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    write_series(folder, volume)[2].unlink()
    result = Ingested(folder, tmp_path)
    np.testing.assert_array_equal(result.hu, as_columns(np.delete(volume, 2, axis=0)))
    assert result.qc["series"][0]["gaps"] == [{"after": -97.5, "before": -92.5, "missing": 1}]


def test_a_truncated_file_is_set_aside_with_a_warning_and_leaves_a_gap(
    folder: Path,
    tmp_path: Path,
    write_series: WriteSeries,
    volume: NDArray[np.int16],
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = write_series(folder, volume)[3]
    path.write_bytes(path.read_bytes()[:-100])
    result = Ingested(folder, tmp_path)
    np.testing.assert_array_equal(result.hu, as_columns(np.delete(volume, 3, axis=0)))
    (aside,) = result.qc["set_aside"]
    assert aside["broken"]
    assert "truncated" in aside["reason"]
    assert "WARNING: slice-0003.dcm is set aside: truncated" in capfd.readouterr().err
    assert len(result.qc["series"][0]["gaps"]) == 1


def test_slices_that_cannot_be_decoded_are_set_aside(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    def edit(ds: Dataset, z: int) -> None:
        ds.compress("1.2.840.10008.1.2.5")
        if z in (1, 4):
            ds.PixelData = ds.PixelData[:40] + bytes(len(ds.PixelData) - 40)

    write_series(folder, volume, edit=edit)
    result = Ingested(folder, tmp_path)
    np.testing.assert_array_equal(result.hu, as_columns(np.delete(volume, [1, 4], axis=0)))
    assert [entry["file"] for entry in result.qc["set_aside"]] == ["slice-0001.dcm", "slice-0004.dcm"]


def test_a_series_without_any_decodable_slice_is_refused(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    def edit(ds: Dataset, _: int) -> None:
        ds.compress("1.2.840.10008.1.2.5")
        ds.PixelData = ds.PixelData[:40] + bytes(len(ds.PixelData) - 40)

    write_series(folder / "good", volume)
    write_series(folder / "bad", volume, edit=edit)
    message = refusal(folder, tmp_path)
    assert "no slice of series" in message
    assert "RLE" in message


def test_files_that_are_not_slices_are_set_aside_with_a_reason(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    write_series(folder / "axial", volume)
    write_series(folder / "scout", volume[:1], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    write_series(folder / "mr", volume[:1], SOPClassUID="1.2.840.10008.5.1.4.1.1.4")
    (folder / "notes.txt").write_text("hello")
    shutil.copytree(folder / "axial", folder / "again")
    result = Ingested(folder, tmp_path)
    np.testing.assert_array_equal(result.hu, as_columns(volume))
    reasons = {entry["file"]: entry["reason"] for entry in result.qc["set_aside"]}
    assert "localizer" in reasons["scout/slice-0000.dcm"]
    assert "MR Image" in reasons["mr/slice-0000.dcm"]
    assert reasons["notes.txt"] == "not DICOM"
    assert sum("a copy of" in reason for reason in reasons.values()) == 6
    assert result.qc["files"] == 15


def test_files_of_other_steps_and_pipes_are_ignored(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    write_series(folder, volume)
    (folder / ".ctbasis-fetch.jsonl").write_text("{}")
    os.mkfifo(folder / "pipe")
    assert Ingested(folder, tmp_path).qc["files"] == 6


def test_a_folder_with_an_interrupted_fetch_is_refused(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(items: Iterator[object], *_: object, **__: object) -> Iterator[object]:
        yield next(items)
        raise KeyboardInterrupt

    write_series(tmp_path / "source", volume)
    with monkeypatch.context() as patch:
        patch.setattr("ctbasis.sources.fetch.progress", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fetch(str(tmp_path / "source"), folder)
    assert list(folder.glob("*.dcm"))
    assert "not complete" in refusal(folder, tmp_path)
    fetch(str(tmp_path / "source"), folder)
    np.testing.assert_array_equal(Ingested(folder, tmp_path).hu, as_columns(volume))


def test_qc_and_progress_contain_no_patient_data(
    folder: Path,
    tmp_path: Path,
    write_series: WriteSeries,
    volume: NDArray[np.int16],
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = write_series(folder, volume)[0]
    path.write_bytes(path.read_bytes()[:-1])
    result = Ingested(folder, tmp_path)
    output = result.text + "".join(capfd.readouterr())
    for private in ("Made^Up", "TEST-1", "20200101", "120000"):
        assert private not in output


def test_a_folder_of_pngs_is_refused_with_the_number_of_files(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    for number in range(7):
        Image.fromarray(np.full((16, 16), number, np.uint8)).save(folder / f"{number}.png")
    assert "no CT image among 7 files" in refusal(folder, tmp_path)


def test_an_empty_folder_and_a_missing_folder_are_refused(folder: Path, tmp_path: Path) -> None:
    assert "no folder" in refusal(folder, tmp_path)
    folder.mkdir()
    assert "no CT image among 0 files" in refusal(folder, tmp_path)


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (edit_at(2, ImageOrientationPatient=[1, 0, 0, 0, 0, -1]), "two orientations"),
        (edit_at(2, ImagePositionPatient=[-10, -10, -97.5]), "at one position"),
    ],
)
def test_a_series_that_is_not_a_volume_is_refused(
    folder: Path,
    tmp_path: Path,
    write_series: WriteSeries,
    volume: NDArray[np.int16],
    edit: Callable[[Dataset, int], None],
    reason: str,
) -> None:
    write_series(folder, volume, edit=edit)
    message = refusal(folder, tmp_path)
    assert reason in message
    assert "slice-0002.dcm" in message


def test_images_of_different_sizes_in_one_series_are_refused(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    write_series(folder / "a", volume, SeriesInstanceUID="1.2.3")
    write_series(
        folder / "b",
        volume[:1, :16],
        SeriesInstanceUID="1.2.3",
        ImagePositionPatient=[-10, -10, 50],
    )
    assert "of 32 x 24" in refusal(folder, tmp_path)


def test_the_matrix_of_an_earlier_run_is_replaced(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    write_series(folder, volume)
    Ingested(folder, tmp_path)
    shutil.rmtree(folder)
    write_series(folder, volume[:3, :16])
    np.testing.assert_array_equal(Ingested(folder, tmp_path).hu, as_columns(volume[:3, :16]))


INGEST_ON_FULL_DISK = """
import resource, sys
from pathlib import Path
from ctbasis.errors import CtbasisError
from ctbasis.matrix.ingest import ingest
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), int(sys.argv[3])))
try:
    ingest(Path(sys.argv[1]), sys.argv[2] + "/matrix.zarr", Path(sys.argv[2]) / "qc.json", workers=2)
except CtbasisError as error:
    print(error)
    sys.exit(2)
"""


@pytest.mark.parametrize("limit", [300, 20_000, 150_000])
def test_a_full_disk_is_reported_and_leaves_no_readable_matrix(
    folder: Path, tmp_path: Path, write_series: WriteSeries, limit: int
) -> None:
    # RLIMIT_FSIZE acts like a full disk: the limits stop the metadata, the shared memory and a chunk.
    write_series(folder, np.random.default_rng(0).integers(-1000, 1000, (2, 256, 256)))
    done = subprocess.run(
        [sys.executable, "-c", INGEST_ON_FULL_DISK, str(folder), str(tmp_path), str(limit)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "cannot be written" in done.stdout
    assert not (tmp_path / "qc.json").exists()
    with pytest.raises(CtbasisError):
        MatrixStore.open(str(tmp_path / "matrix.zarr"))


def test_an_unwritable_location_is_reported(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    write_series(folder, volume)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CtbasisError, match="cannot be written"):
        ingest(folder, str(tmp_path / "file" / "matrix.zarr"), tmp_path / "qc.json", workers=1)


def fail_at(file: str, failure: Callable[[], object], module: Any, name: str, patch: pytest.MonkeyPatch) -> None:
    """Make the function `name` of `module` call `failure` for one file; forked workers inherit the change."""
    original = getattr(module, name)

    def work(source: Any, entry: Any) -> Any:
        if getattr(entry, "file", entry) == file:
            failure()
        return original(source, entry)

    patch.setattr(module, name, work)


def loop_forever() -> None:
    while True:
        pass


def exhaust_memory() -> None:
    bytearray(1 << 45)


FAILURES = {
    "killed, probably because memory ran out": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "crashed (SIGSEGV)": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "takes longer than any valid file should": loop_forever,
    "more memory": exhaust_memory,
}


@pytest.mark.parametrize("ending", FAILURES)
@pytest.mark.parametrize(("patched", "name"), [(columns_module, "read_values"), (instance_module, "_read")])
def test_a_file_that_crashes_its_process_costs_one_slice(
    folder: Path,
    tmp_path: Path,
    write_series: WriteSeries,
    volume: NDArray[np.int16],
    monkeypatch: pytest.MonkeyPatch,
    ending: str,
    patched: Any,
    name: str,
) -> None:
    write_series(folder, volume)
    fail_at("slice-0002.dcm", FAILURES[ending], patched, name, monkeypatch)
    monkeypatch.setattr(limits_module, "MAX_CPU_SECONDS", 0.5)
    monkeypatch.setattr(limits_module, "MAX_MEMORY_BYTES", 1 << 30)
    result = Ingested(folder, tmp_path)
    np.testing.assert_array_equal(result.hu, as_columns(np.delete(volume, 2, axis=0)))
    (aside,) = result.qc["set_aside"]
    assert (aside["file"], aside["broken"]) == ("slice-0002.dcm", True)
    assert ending in aside["reason"]
    assert result.qc["series"][0]["gaps"] == [{"after": -97.5, "before": -92.5, "missing": 1}]


def test_a_source_that_crashes_every_process_is_refused(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(folder, volume)
    monkeypatch.setattr(ingest_module, "read_slices", lambda *_: os.kill(os.getpid(), signal.SIGSEGV))
    assert "no CT image" in refusal(folder, tmp_path)
    monkeypatch.setattr(ingest_module, "Workers", partial(Workers, max_crashes=3))
    assert "worker processes of the matrix step died" in refusal(folder, tmp_path)


def test_a_worker_that_dies_while_writing_causes_an_error_without_a_traceback(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(folder, volume)
    monkeypatch.setattr(columns_module, "exclude", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    assert "worker processes of the matrix step died" in refusal(folder, tmp_path)


@pytest.mark.data
def test_a_real_chest_ct_has_133_columns_and_padding_outside_of_the_circle(
    real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    result = Ingested(real_data("lidc-idri-0001"), tmp_path)
    assert (result.store.image, result.store.cols, result.store.dtype) == ((512, 512), 133, np.int16)
    aside = result.store.read_aside(slice(None))
    # This scanner stores -2048 HU outside of the reconstruction circle, but declares another PixelPaddingValue.
    assert (aside[0] == -2048).all()
    assert (result.A[0] == AIR).all()
    # Noise takes single voxels of the airways and of the lungs below air.
    assert 0 < np.mean(result.A < AIR) < 0.002
    assert all("wrong sign" in str(entry["tolerated"]) for entry in result.qc["slices"])
    assert result.store.series[0].spacing == 2.5
    column = 70
    entry = result.qc["slices"][column]
    ds = pydicom.dcmread(next(real_data("lidc-idri-0001").rglob(entry["file"])))
    np.testing.assert_array_equal(result.hu[:, column], ds.pixel_array.ravel() - 1024)


@pytest.mark.data
def test_two_kernels_of_one_real_scan_are_two_adjacent_series(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    folder = real_data("lung-pet-ct-dx-a0001")
    result = Ingested(folder, tmp_path)
    assert [(series.first, series.count, series.spacing) for series in result.store.series] == [(0, 64, 5), (64, 64, 5)]
    kernels = [pydicom.dcmread(io.BytesIO(result.store.header(column))).ConvolutionKernel for column in (0, 64)]
    assert len(set(kernels)) == 2
    positions = [entry["position"] for entry in result.qc["slices"]]
    assert positions[:64] == positions[64:]
    for column in (3, 100):
        ds = pydicom.dcmread(folder.rglob(result.qc["slices"][column]["file"]).__next__())
        np.testing.assert_array_equal(result.hu[:, column], ds.pixel_array.astype(int).ravel() - 1024)


@pytest.mark.data
def test_every_folder_of_the_robustness_archive_is_ingested_or_refused(
    real_data: Callable[[str], Path], tmp_path: Path
) -> None:
    root = real_data("dicom-robustness")
    folders = sorted({path.parent for path in root.rglob("*") if path.is_file()})
    ingested = []
    for folder in folders:
        try:
            result = Ingested(folder, tmp_path)
        except CtbasisError:
            assert not (tmp_path / "qc.json").exists()
        else:
            ingested.append(folder.name)
            assert result.A.shape[1] == len(result.qc["slices"])
    assert {"Philips_tilt", "GE_tilt_varspacing", "RLE", "J2KR", "JLSL"} <= set(ingested)


def test_two_phases_of_one_series_become_adjacent_columns(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    for phase in (0, 1):
        write_series(folder / str(phase), volume + phase, SeriesInstanceUID="1.2.3", AcquisitionNumber=phase)
    result = Ingested(folder, tmp_path)
    np.testing.assert_array_equal(result.hu, np.hstack([as_columns(volume), as_columns(volume + 1)]))
    assert [entry["part"] for entry in result.qc["series"]] == ["AcquisitionNumber 0", "AcquisitionNumber 1"]


def test_a_slice_with_two_sop_instance_uids_is_kept_once(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    for name in ("a", "b"):
        write_series(folder / name, volume, SeriesInstanceUID="1.2.3")
    result = Ingested(folder, tmp_path)
    np.testing.assert_array_equal(result.hu, as_columns(volume))
    twins = {entry["file"]: entry["twin"] for entry in result.qc["set_aside"]}
    assert twins == {f"b/slice-000{z}.dcm": f"a/slice-000{z}.dcm" for z in range(6)}
    assert {entry["reason"] for entry in result.qc["set_aside"]} == {"same position and values as another slice"}


def test_one_sop_instance_uid_for_all_slices_of_two_phases_loses_no_slice(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    for phase in (0, 1, 2):
        # The last is the second once more.
        write_series(
            folder / str(phase),
            volume + min(phase, 1),
            edit=edit_all(SOPInstanceUID="1.2.9"),
            SeriesInstanceUID="1.2.3",
            AcquisitionNumber=min(phase, 1),
        )
    result = Ingested(folder, tmp_path)
    np.testing.assert_array_equal(result.hu, np.hstack([as_columns(volume), as_columns(volume + 1)]))
    twins = {entry["file"]: entry["twin"] for entry in result.qc["set_aside"]}
    assert twins == {f"2/slice-000{z}.dcm": f"1/slice-000{z}.dcm" for z in range(6)}


def test_a_broken_slice_with_a_series_instance_uid_of_its_own_costs_one_slice(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    def edit(ds: Dataset, z: int) -> None:
        ds.SeriesInstanceUID = f"1.2.3.{z + 1}"
        if z == 2:
            ds.PixelData = bytes(len(ds.PixelData))
            ds.RescaleIntercept = 1e9

    write_series(folder, volume, edit=edit)
    result = Ingested(folder, tmp_path)
    np.testing.assert_array_equal(result.hu, as_columns(volume[[0, 1, 3, 4, 5]]))
    assert [entry["SeriesInstanceUID"] for entry in result.qc["series"]] == ["1.2.3.1"]
    assert [entry["missing"] for entry in result.qc["series"][0]["gaps"]] == [1]
    assert result.qc["series"][0]["runs"] == [2, 3]
    assert [entry.breaks for entry in result.store.series] == [(2,)]
    (volume_read,) = read_volumes(result.store, result.qc)
    again = write_volume(volume_read, str(tmp_path / "again.zarr"))
    assert [entry.breaks for entry in again.series] == [(2,)]
    assert [entry.breaks for entry in write_volume(volume_read[1:4], str(tmp_path / "part.zarr")).series] == [(1,)]


def test_every_frame_of_an_enhanced_ct_becomes_a_column(folder: Path, tmp_path: Path) -> None:
    folder.mkdir()
    values = stored_values(5)
    (folder / "enhanced.dcm").write_bytes(to_bytes(enhanced_ct(values)))
    result = Ingested(folder, tmp_path)
    np.testing.assert_array_equal(result.hu, as_columns(values.astype(int) - 1024))
    assert [entry["frame"] for entry in result.qc["slices"]] == [1, 2, 3, 4, 5]
    assert result.store.series[0].spacing == 2.5


def test_symbolic_links_out_of_the_folder_are_set_aside(
    folder: Path, tmp_path: Path, write_series: WriteSeries, volume: NDArray[np.int16]
) -> None:
    (elsewhere,) = write_series(tmp_path / "elsewhere", volume[:1], ImagePositionPatient=[0, 0, 50])
    write_series(folder, volume)
    (folder / "link.dcm").symlink_to(elsewhere)
    (folder / "inside.dcm").symlink_to(folder / "slice-0000.dcm")
    result = Ingested(folder, tmp_path)
    reasons = {entry["file"]: entry["reason"] for entry in result.qc["set_aside"]}
    assert reasons["link.dcm"] == "a symbolic link to a file outside of the folder"
    assert "a copy of" in str(reasons)
    assert result.store.cols == 6


def test_a_column_group_has_a_bounded_size_for_any_image_size() -> None:
    for edge in (16, 512, 1024, 4096, 8192):
        for slices in (1, 100, 5000):
            width = store_module.column_chunk_for(slices, edge * edge)
            assert width == 1 or width * edge * edge <= store_module.GROUP_ELEMENTS
            assert width <= store_module.COLUMN_CHUNK
