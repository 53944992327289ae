"""The compiled pipeline in patch mode, and `ctbasis denoise` with the basis of that run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest

from ctbasis import denoise, read, write_series
from ctbasis.demo.s3server import S3Server
from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.local import run
from ctbasis.patch.bases import PatchBases
from ctbasis.storage.outputs import RESULT
from tests.kubeflow.test_run import ctbasis, left_behind, stored
from tests.patch.conftest import body, noisy

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.conftest import WriteSeries

OUTPUTS = {"denoised", "noise", "basis", "figure1.png", "report.html", "metrics.json", "qc.json"}
FAST = ("--engine", "numpy", "--stride", 2)


@pytest.fixture(scope="module")
def phantom(tmp_path_factory: pytest.TempPathFactory, write_series: WriteSeries) -> tuple[Path, Path]:
    """Return a noisy and a clean series of 8 slices of 200 x 200."""
    place = tmp_path_factory.mktemp("phantom")
    truth = body(200, 8)
    for name, hu in (("noisy", noisy(truth)), ("clean", truth)):
        write_series(place / name, np.moveaxis(np.round(hu), -1, 0), PixelSpacing=[1.6, 1.6])
    return place / "noisy", place / "clean"


@pytest.fixture(scope="module")
def finished(
    phantom: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    out = tmp_path_factory.mktemp("run") / "out"
    done = ctbasis("run", phantom[0], "--truth", phantom[1], "--mode", "patch", "--out", out, *FAST)
    assert done.returncode == 0, done.stdout + done.stderr
    return out, done


def test_a_run_writes_denoised_dicom_noise_maps_a_basis_and_a_report(
    finished: tuple[Path, subprocess.CompletedProcess[str]], phantom: tuple[Path, Path]
) -> None:
    out, _ = finished
    assert {path.name for path in out.iterdir()} == OUTPUTS | {RESULT}
    assert stored(out / "denoised").shape == stored(out / "noise").shape == stored(phantom[0]).shape
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["mode"], metrics["engine"], metrics["cols"]) == ("patch", "numpy", 8)
    assert metrics["after"]["rmse_body"] < 0.8 * metrics["before"]["rmse_body"]
    assert PatchBases.open(str(out / "basis")).bases[0].provenance["series"] == 1
    assert left_behind(out.parent) == ["out"]


def test_python_gives_the_same_series_and_the_same_map_of_the_noise(
    finished: tuple[Path, subprocess.CompletedProcess[str]], phantom: tuple[Path, Path], tmp_path: Path
) -> None:
    out, _ = finished
    denoised = denoise(read(phantom[0]), stride=2)
    of_run = read(out / "denoised")
    assert np.abs(of_run.hu - denoised.hu).max() <= 0.5
    # Maps are stored in hundredths of a HU.
    assert denoised.sigma is not None
    assert np.abs(read(out / "noise").hu - denoised.sigma).max() <= 0.00501
    written = write_series(denoised.volume, tmp_path / "denoised")
    # UIDs follow from the values and the parameters: these are the same files.
    assert [path.read_bytes() for path in written] == [
        path.read_bytes() for path in sorted((out / "denoised").iterdir())
    ]
    assert read(tmp_path / "denoised").SeriesInstanceUID == of_run.SeriesInstanceUID


def test_only_the_dicom_files_contain_the_name_and_id_of_the_patient(
    finished: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    out, done = finished
    texts = [done.stdout, done.stderr, *((out / name).read_text() for name in ("report.html", "metrics.json"))]
    texts += [path.read_bytes().decode("latin-1") for path in (out / "basis").rglob("*") if path.is_file()]
    for text in texts:
        assert "Made^Up" not in text
        assert "TEST-1" not in text


def test_a_stored_basis_denoises_a_series_with_all_stores_on_s3(
    finished: tuple[Path, subprocess.CompletedProcess[str]], phantom: tuple[Path, Path], tmp_path: Path
) -> None:
    with S3Server(tmp_path / "server") as server:
        server.client().create_bucket(Bucket="scratch")
        server.put_folder(finished[0] / "basis", "s3://kept/lung/basis")
        options = ("--basis", "s3://kept/lung/basis", "--store", "s3://scratch/ct", *FAST)
        done = ctbasis("denoise", phantom[0], "--out", tmp_path / "out", *options, env=server.environment())
        assert done.returncode == 0, done.stdout + done.stderr
        assert not server.client().list_objects_v2(Bucket="scratch").get("Contents")
    assert "is a basis of patches: mode patch" in done.stdout
    assert server.secret_key not in done.stdout + done.stderr
    np.testing.assert_array_equal(stored(tmp_path / "out" / "denoised"), stored(finished[0] / "denoised"))
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["basis"] == "given"
    # It was made otherwise, so it has other UIDs, although the pixels are the same.
    first = [pydicom.dcmread(next((at / "denoised").iterdir())) for at in (tmp_path / "out", finished[0])]
    assert first[0].SeriesInstanceUID != first[1].SeriesInstanceUID


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"mode": "wavelet"}, "mode is 'wavelet'"),
        ({"tau": -1.0}, "tau is -1.0"),
        ({"tau": float("nan")}, "tau is nan"),
        ({"stride": 0}, "stride is 0"),
        ({"stride": 7}, "stride is 7"),
        ({"target_noise": -2.0}, "target_noise is -2.0"),
        ({"basis": "{out}/nothing"}, "no basis at"),
        ({"basis": "{out}/denoised"}, "no basis at"),
        ({"basis": "{out}/basis", "mode": "global"}, "was made in patch mode, but this run is in global mode"),
    ],
)
def test_invalid_parameters_are_refused_before_any_step_starts(
    wrong: dict[str, Any],
    said: str,
    phantom: tuple[Path, Path],
    finished: tuple[Path, subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    filled = {name: value.format(out=finished[0]) if name == "basis" else value for name, value in wrong.items()}
    with pytest.raises(CtbasisError, match=said):
        run({"source": str(phantom[0]), "mode": "patch", **filled}, out=tmp_path / "out")
    assert left_behind(tmp_path) == []


@pytest.mark.java
def test_a_series_is_denoised_in_patch_mode_on_spark(
    finished: tuple[Path, subprocess.CompletedProcess[str]], phantom: tuple[Path, Path], tmp_path: Path
) -> None:
    options = ("--mode", "patch", "--engine", "spark", "--stride", 2)
    done = ctbasis("run", phantom[0], "--out", tmp_path / "out", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    difference = stored(tmp_path / "out" / "denoised").astype(int) - stored(finished[0] / "denoised")
    assert np.quantile(np.abs(difference), 0.99) <= 1
