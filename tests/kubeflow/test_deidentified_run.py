"""A run with --deidentify: no output and no message contains the identity of the patient in the source."""

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
    """A run that succeeded, and its console output."""

    out: Path
    log: bytes


@pytest.fixture(scope="module")
def named(write_series: WriteSeries, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a source with the identity of a patient in every possible place, file names included, and faulty files."""
    source = tmp_path_factory.mktemp("named")
    for path in write_series(source / f"{MARK}-folder", anatomy(), edit=plant):
        path.rename(path.with_name(f"{MARK}-小東-{path.name}"))
    first, *_ = sorted(source.rglob("*.dcm"))
    (source / f"{MARK}-copy.dcm").write_bytes(first.read_bytes())
    spoil(first, source / f"{MARK}-broken.dcm")
    (source / f"{MARK}-notes.txt").write_text(f"{MARK} Zqfamily")
    # Not a DICOM file, although it begins like one.
    (source / f"{MARK}-garbage.dcm").write_bytes(b"\0" * 128 + b"DICM" + f"{MARK} Zqfamily".encode() * 20)
    return source


def anatomy() -> NDArray[np.int16]:
    """Return a warm square with lungs in air and noise, HU, (6, 32, 24)."""
    volume = np.full((6, 32, 24), -1000)
    volume[:, 4:28, 3:21] = 40
    volume[:, 8:24, 5:10] = volume[:, 8:24, 14:19] = -800
    return (volume + np.random.default_rng(0).normal(0, 10, volume.shape)).astype(np.int16)


def spoil(path: Path, target: Path) -> None:
    """Write the first half of a file, which ends inside the header."""
    content = path.read_bytes()
    target.write_bytes(content[: len(content) // 2])


def finished(source: Path, out: Path, **settings: Any) -> Finished:
    log = io.StringIO()
    with redirect_stdout(log), redirect_stderr(log):
        done = run({"source": str(source), "truth": str(source), **SETTINGS, **settings}, out=out)
    return Finished(done.out, log.getvalue().encode())


@pytest.fixture(scope="module")
def open_run(named: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Return a run without de-identification."""
    return finished(named, tmp_path_factory.mktemp("runs") / "open")


@pytest.fixture(scope="module")
def closed_run(named: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Return a run with de-identification and the salt `SECRET`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(SALT, SECRET)
        return finished(named, tmp_path_factory.mktemp("runs") / "closed", deidentify=True, retain="clean-descriptors")


def test_outputs_pictures_stores_and_log_do_not_contain_the_patient(open_run: Finished, closed_run: Finished) -> None:
    # The search finds the identity where it is present.
    assert {found.split(":")[0] for found in leaks(open_run.out)} >= {"qc.json", "headers", "slice-0001.dcm"}
    assert MARK.encode() in open_run.log
    assert leaks(closed_run.out) == []
    assert list(sentinels_in(closed_run.log)) == []
    # The search cannot read pictures; equal pictures prove that they do not depend on the identity.
    assert (open_run.out / "figure1.png").read_bytes() == (closed_run.out / "figure1.png").read_bytes()


def test_the_run_reports_whether_it_de_identifies(open_run: Finished, closed_run: Finished) -> None:
    assert b"not de-identified" in open_run.log
    assert b"de-identified by PS3.15" in closed_run.log
    for done, expected in ((open_run, False), (closed_run, True)):
        assert json.loads((done.out / "metrics.json").read_text())["deidentified"] is expected
        page = (done.out / "report.html").read_text()
        assert ("Confidentiality Profile" in page) is expected
        assert ("identify the patient as the source does" in page) is not expected
    described = json.loads((closed_run.out / "qc.json").read_text())["deidentified"]
    assert described["codes"] == ["113100", "113105"]
    assert json.loads((open_run.out / "qc.json").read_text())["deidentified"] is None


def test_the_written_series_state_the_de_identification_and_form_one_study(closed_run: Finished) -> None:
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


def test_the_same_salt_gives_the_same_pseudonyms_and_is_not_written(
    named: Path, closed_run: Finished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SALT, SECRET)
    original = pydicom.dcmread(next(named.rglob("*slice-0000.dcm")))
    written = pydicom.dcmread(next((closed_run.out / "denoised").rglob("*.dcm")))
    assert written.StudyInstanceUID == Deidentification.of().uid(original.StudyInstanceUID)
    assert SECRET.encode() not in closed_run.log
    assert [path for path in closed_run.out.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()] == []


def test_in_the_workspace_only_the_source_contains_the_patient(named: Path, tmp_path: Path) -> None:
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


def test_the_error_of_a_refused_run_does_not_contain_the_patient(
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


def test_a_slice_with_burned_in_annotation_is_set_aside_and_reported(
    write_series: WriteSeries, volume: NDArray[np.int16], tmp_path: Path
) -> None:
    def burn(dataset: pydicom.Dataset, z: int) -> None:
        dataset.BurnedInAnnotation = "YES" if z == 5 else "NO"

    write_series(tmp_path / "source", volume, edit=burn)
    qc = tmp_path / "qc.json"
    ingest(tmp_path / "source", str(tmp_path / "m.zarr"), qc, workers=1, deidentification=Deidentification.of())
    (aside,) = json.loads(qc.read_text())["set_aside"]
    assert "BurnedInAnnotation" in aside["reason"]


def test_retain_without_deidentify_is_refused_before_any_step_starts(named: Path, tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match="add --deidentify"):
        run({"source": str(named), **SETTINGS, "retain": "uids"}, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
