"""A whole run with --deidentify: whoever the source named is nowhere in what the run wrote or said."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest

from ctbasis.dicom.deidentify.deidentification import Deidentification
from ctbasis.dicom.deidentify.pseudonyms import SALT
from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.local import run
from ctbasis.matrix.ingest import ingest
from ctbasis.parameters import SvdPlan
from ctbasis.report.global_report import write_report
from ctbasis.sources.fetch import fetch
from ctbasis.steps.reconstruct import reconstruct
from ctbasis.steps.svd import factorize
from tests.dicom.deidentify.identity import MARK, leaks, plant, sentinels_in

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    WriteSeries = Callable[..., list[Path]]

SECRET = f"{MARK}-a-secret-of-this-hospital"

SETTINGS: dict[str, Any] = {"engine": "numpy", "rank": "2", "ranks": "2"}


@dataclass(frozen=True)
class Finished:
    """A run that succeeded, and all that it printed."""

    out: Path
    log: bytes


@pytest.fixture(scope="module")
def named(write_series: WriteSeries, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a source that names a patient wherever it can, in names of files too, with files that go wrong."""
    source = tmp_path_factory.mktemp("named")
    for path in write_series(source / f"{MARK}-folder", anatomy(), edit=plant):
        path.rename(path.with_name(f"{MARK}-小東-{path.name}"))
    first, *_ = sorted(source.rglob("*.dcm"))
    (source / f"{MARK}-copy.dcm").write_bytes(first.read_bytes())
    spoil(first, source / f"{MARK}-broken.dcm")
    (source / f"{MARK}-notes.txt").write_text(f"{MARK} Zqfamily")
    # Not a DICOM file at all, though it begins like one.
    (source / f"{MARK}-garbage.dcm").write_bytes(b"\0" * 128 + b"DICM" + f"{MARK} Zqfamily".encode() * 20)
    return source


def anatomy() -> NDArray[np.int16]:
    """Return a warm square with lungs in air and noise, HU, (6, 32, 24)."""
    volume = np.full((6, 32, 24), -1000)
    volume[:, 4:28, 3:21] = 40
    volume[:, 8:24, 5:10] = volume[:, 8:24, 14:19] = -800
    return (volume + np.random.default_rng(0).normal(0, 10, volume.shape)).astype(np.int16)


def spoil(path: Path, target: Path) -> None:
    """Write the first half of a file: its header breaks off."""
    content = path.read_bytes()
    target.write_bytes(content[: len(content) // 2])


def finished(source: Path, out: Path, **settings: Any) -> Finished:
    log = io.StringIO()
    with redirect_stdout(log), redirect_stderr(log):
        done = run({"source": str(source), "truth": str(source), **SETTINGS, **settings}, out=out)
    return Finished(done.out, log.getvalue().encode())


@pytest.fixture(scope="module")
def open_run(named: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Return a run that de-identifies nothing."""
    return finished(named, tmp_path_factory.mktemp("runs") / "open")


@pytest.fixture(scope="module")
def closed_run(named: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Return a run that de-identifies, under the salt `SECRET`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SALT, SECRET)
        return finished(named, tmp_path_factory.mktemp("runs") / "closed", deidentify=True, retain="clean-descriptors")


def test_the_patient_is_nowhere_in_outputs_pictures_stores_and_log(open_run: Finished, closed_run: Finished) -> None:
    # The search finds what is there.
    assert {found.split(":")[0] for found in leaks(open_run.out)} >= {"qc.json", "headers", "slice-0001.dcm"}
    assert MARK.encode() in open_run.log
    assert leaks(closed_run.out) == []
    assert list(sentinels_in(closed_run.log)) == []
    # What it cannot read: the same pixels give the same picture, whoever they are of.
    assert (open_run.out / "figure1.png").read_bytes() == (closed_run.out / "figure1.png").read_bytes()


def test_the_run_says_whether_it_de_identifies(open_run: Finished, closed_run: Finished) -> None:
    assert b"not de-identified" in open_run.log
    assert b"de-identified by PS3.15" in closed_run.log
    for done, expected in ((open_run, False), (closed_run, True)):
        assert json.loads((done.out / "metrics.json").read_text())["deidentified"] is expected
        page = (done.out / "report.html").read_text()
        assert ("Confidentiality Profile" in page) is expected
        assert ("names the patient as the source does" in page) is not expected
    described = json.loads((closed_run.out / "qc.json").read_text())["deidentified"]
    assert described["codes"] == ["113100", "113105"]
    assert json.loads((open_run.out / "qc.json").read_text())["deidentified"] is None


def test_what_is_written_says_so_and_is_one_study_of_one_patient(closed_run: Finished) -> None:
    images = [
        pydicom.dcmread(path)
        for folder in ("denoised", "basis-images")
        for path in sorted((closed_run.out / folder).rglob("*.dcm"))
    ]
    assert len(images) == 6 + 2
    assert {image.PatientIdentityRemoved for image in images} == {"YES"}
    assert {tuple(item.CodeValue for item in image.DeidentificationMethodCodeSequence) for image in images} == {
        ("113100", "113105")
    }
    assert len({(image.StudyInstanceUID, image.PatientID, str(image.PatientName)) for image in images}) == 1
    qc = json.loads((closed_run.out / "qc.json").read_text())
    sources = {entry["SOPInstanceUID"] for entry in qc["slices"]}
    assert {image.SourceImageSequence[0].ReferencedSOPInstanceUID for image in images[:6]} == sources
    assert {entry["file"].rpartition("-")[0] for entry in qc["slices"]} == {"object"}


def test_the_salt_gives_the_same_pseudonyms_again_and_is_nowhere(
    named: Path, closed_run: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SALT, SECRET)
    original = pydicom.dcmread(next(named.rglob("*slice-0000.dcm")))
    written = pydicom.dcmread(next((closed_run.out / "denoised").rglob("*.dcm")))
    assert written.StudyInstanceUID == Deidentification.of().uid(original.StudyInstanceUID)
    assert SECRET.encode() not in closed_run.log
    assert [path for path in closed_run.out.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()] == []


def test_the_patient_is_in_no_store_and_no_file_of_the_workspace_but_the_source(named: Path, tmp_path: Path) -> None:
    place, source = tmp_path / "workspace", tmp_path / "source"
    fetch(str(named), source, opaque=True)
    ingest(source, str(place / "matrix.zarr"), place / "qc.json", workers=2, deidentification=Deidentification.of())
    plan = SvdPlan.of(rank="2", ranks="2", engine="numpy")
    factorize(str(place / "matrix.zarr"), str(place / "factors.zarr"), plan)
    reconstruct(str(place / "factors.zarr"), place / "denoised", rank=2, basis_images=place / "basis-images")
    write_report(
        str(place / "matrix.zarr"),
        str(place / "factors.zarr"),
        rank=2,
        ranks=[2],
        qc=place / "qc.json",
        out=place / "report",
    )
    assert leaks(place) == []
    assert [path for path in source.rglob("*") if MARK in path.name] == []
    assert list(sentinels_in((source / ".ctbasis-fetch.jsonl").read_bytes())) == []


def test_a_run_that_is_refused_names_nobody_either(
    named: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in named.rglob("*.dcm"):
        spoil(path, source / path.name)
    with pytest.raises(CtbasisError, match="no CT image") as refused:
        run({"source": str(source), **SETTINGS, "deidentify": True}, out=tmp_path / "out")
    said = capfd.readouterr()
    assert "matrix failure" in said.out
    assert list(sentinels_in(f"{refused.value}{said.out}{said.err}".encode())) == []


def test_a_slice_with_burned_in_annotation_is_set_aside_by_name(
    write_series: WriteSeries, volume: NDArray[np.int16], tmp_path: Path
) -> None:
    def burn(dataset: pydicom.Dataset, z: int) -> None:
        dataset.BurnedInAnnotation = "YES" if z == 5 else "NO"

    write_series(tmp_path / "source", volume, edit=burn)
    qc = tmp_path / "qc.json"
    ingest(tmp_path / "source", str(tmp_path / "m.zarr"), qc, workers=1, deidentification=Deidentification.of())
    (aside,) = json.loads(qc.read_text())["set_aside"]
    assert "BurnedInAnnotation" in aside["reason"]


def test_options_without_de_identification_are_refused_before_anything_runs(named: Path, tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match="add --deidentify"):
        run({"source": str(named), **SETTINGS, "retain": "uids"}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
