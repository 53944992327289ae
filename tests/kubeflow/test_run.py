"""The compiled package runs whole on this machine, from a folder and from a real S3 server, and fails cleanly."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pydicom
import pytest
from PIL import Image

from ctbasis import denoise, read
from ctbasis.demo.s3server import S3Server
from ctbasis.installed import LAYOUT
from ctbasis.spark.launch_local import java_version
from ctbasis.svd.factors import FactorStore
from ctbasis.svd.rank_k import low_rank_columns

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Finished = tuple[Path, subprocess.CompletedProcess[str]]

CTBASIS = Path(sys.executable).with_name("ctbasis")
OUTPUTS = {"denoised", "basis-images", "basis", "figure1.png", "report.html", "metrics.json", "qc.json"}


def ctbasis(*arguments: object, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the console command as a user would."""
    return subprocess.run(
        [str(CTBASIS), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **(env or {})},
    )


def stored(folder: Path) -> NDArray[Any]:
    datasets = [pydicom.dcmread(path) for path in folder.glob("*.dcm")]
    datasets.sort(key=lambda ds: ds.ImagePositionPatient[2])
    return np.stack([ds.pixel_array for ds in datasets])


def left_behind(folder: Path) -> list[str]:
    """Return what a failed run left where its output would have been."""
    return sorted(path.name for path in folder.iterdir() if "out" in path.name)


@pytest.fixture(scope="module")
def finished(series: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Return the folder of a run at full rank on NumPy, and what it printed."""
    out = tmp_path_factory.mktemp("run") / "out"
    done = ctbasis("run", series, "--out", out, "--engine", "numpy", "--rank", 6, "--ranks", "2,300")
    assert done.returncode == 0, done.stderr + done.stdout
    return out, done


def test_a_folder_becomes_denoised_dicom_basis_pictures_and_numbers(finished: Finished, series: Path) -> None:
    out, _ = finished
    assert {path.name for path in out.iterdir()} == OUTPUTS
    assert stored(out / "denoised").shape == stored(series).shape
    assert (FactorStore.open(str(out / "basis")).rank, FactorStore.open(str(out / "basis")).cols) == (6, 6)
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["rank"], metrics["cols"]) == (6, 6)
    with Image.open(out / "figure1.png") as figure:
        figure.verify()
    assert "<html" in (out / "report.html").read_text()
    assert len(json.loads((out / "qc.json").read_text())["slices"]) == 6
    assert left_behind(out.parent) == ["out"]


def test_no_name_or_number_of_the_patient_is_printed_or_written_beside_the_dicom(finished: Finished) -> None:
    out, done = finished
    texts = [done.stdout, done.stderr]
    texts += [(out / name).read_text() for name in ("report.html", "metrics.json", "qc.json")]
    for text in texts:
        assert "Made^Up" not in text
        assert "TEST-1" not in text


def test_at_full_rank_every_stored_pixel_comes_back(finished: Finished, series: Path) -> None:
    np.testing.assert_array_equal(stored(finished[0] / "denoised"), stored(series))


def test_python_projects_on_the_basis_of_a_run_and_computes_the_same_approximation(
    finished: Finished, series: Path
) -> None:
    volume = read(series)
    of_run = FactorStore.open(str(finished[0] / "basis"))
    computed = denoise(volume, mode="global", rank=3)
    applied = denoise(volume, mode="global", rank=3, basis=finished[0] / "basis")
    for denoised in (computed, applied):
        image = denoised.hu[2].reshape(-1)[~volume.set_aside[2].reshape(-1)]
        expected = low_rank_columns(of_run, slice(2, 3), 3)[:, 0][~volume.set_aside[2].reshape(-1)]
        assert np.abs(image - expected).max() < 0.01


def test_a_second_run_replaces_the_first_ones_folder_and_auto_says_what_it_chose(
    finished: Finished, series: Path, tmp_path: Path
) -> None:
    shutil.copytree(finished[0], tmp_path / "out")
    options = ("--out", tmp_path / "out", "--engine", "numpy", "--rank", "auto", "--ranks", "2")
    done = ctbasis("run", series, *options)
    assert done.returncode == 0, done.stdout
    assert "rank: auto chose" in done.stdout
    assert 1 <= json.loads((tmp_path / "out" / "metrics.json").read_text())["rank"] < 6
    assert left_behind(tmp_path) == ["out"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--rank", "0"), "rank '0'"),
        (("--rank", "-3"), "rank '-3'"),
        (("--ranks", "5,no"), "rank 'no'"),
        (("--oversample", "-1"), "oversample is -1"),
        (("--engine", "abacus"), "'abacus' is not one of"),
    ],
)
def test_nonsense_is_refused_before_anything_is_started(
    options: tuple[str, ...], said: str, series: Path, tmp_path: Path
) -> None:
    done = ctbasis("run", series, "--out", tmp_path / "out", *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("case", ["nothing", "empty", "pictures"])
def test_a_source_without_ct_is_refused_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    source = tmp_path / case
    if case != "nothing":
        source.mkdir()
    if case == "pictures":
        for number in range(3):
            Image.new("L", (8, 8)).save(source / f"{number}.png")
    done = ctbasis("run", source, "--out", tmp_path / "out", "--engine", "numpy")
    assert done.returncode == 2
    assert "ctbasis: error: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "expected: " in done.stderr
    assert left_behind(tmp_path) == []


@pytest.mark.java
def test_a_series_travels_from_s3_through_mahout_to_dicom(finished: Finished, series: Path, tmp_path: Path) -> None:
    assert java_version() is not None, "no Java: `make setup` installs one"
    assert (LAYOUT.jars / "ctbasis-mahout.jar").exists(), "`make setup` builds it"
    with S3Server(tmp_path / "s3") as server:
        server.put_folder(series, "s3://hospital/lung/low-dose")
        options = ("--engine", "mahout", "--rank", 2, "--ranks", "2", "--seed", 7)
        out = tmp_path / "out"
        done = ctbasis("run", "s3://hospital/lung/low-dose", "--out", out, *options, env=server.environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert server.secret_key not in done.stdout + done.stderr
    assert json.loads((out / "metrics.json").read_text())["engine"] == "mahout"
    exact = ctbasis("reconstruct", finished[0] / "basis", "--rank", 2, "--out", tmp_path / "exact")
    assert exact.returncode == 0, exact.stderr
    difference = stored(out / "denoised").astype(int) - stored(tmp_path / "exact")
    assert np.abs(difference).max() <= 1


def test_wrong_keys_are_said_without_showing_them(tmp_path: Path, series: Path) -> None:
    with S3Server(tmp_path / "s3") as server:
        server.put_folder(series, "s3://hospital/lung")
        env = {**server.environment(), "AWS_SECRET_ACCESS_KEY": "not-the-right-one"}
        done = ctbasis("run", "s3://hospital/lung", "--out", tmp_path / "out", "--engine", "numpy", env=env)
    assert done.returncode == 2
    assert "ctbasis: error: fetch: " in done.stderr
    assert "not-the-right-one" not in done.stdout + done.stderr
    assert left_behind(tmp_path) == []


def outputs(out: Path) -> dict[str, bytes]:
    """Return every file of a run but those that tell the time."""
    kept = ("denoised", "basis", "figure1.png", "qc.json")
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.relative_to(out).parts[0] in kept
    }


def objects(server: S3Server, bucket: str) -> list[str]:
    return [entry["Key"] for entry in server.client().list_objects_v2(Bucket=bucket).get("Contents", [])]


@pytest.mark.parametrize("engine", ["numpy", pytest.param("mahout", marks=pytest.mark.java)])
def test_stores_on_s3_give_what_stores_in_the_workspace_give_and_are_gone_afterwards(
    engine: str, series: Path, tmp_path: Path
) -> None:
    options = ("--truth", series, "--engine", engine, "--rank", 2, "--ranks", "2,4", "--seed", 7)
    assert ctbasis("run", series, "--out", tmp_path / "workspace", *options).returncode == 0
    with S3Server(tmp_path / "server") as server:
        server.client().create_bucket(Bucket="scratch")
        server.client().put_object(Bucket="scratch", Key="ct/neighbour", Body=b"not ours")
        on_s3 = (*options, "--store", "s3://scratch/ct")
        done = ctbasis("run", series, "--out", tmp_path / "on-s3", *on_s3, env=server.environment())
        assert done.returncode == 0, done.stdout + done.stderr
        assert objects(server, "scratch") == ["ct/neighbour"]
    assert "removed the run's stores" in done.stdout
    assert server.secret_key not in done.stdout + done.stderr
    assert outputs(tmp_path / "on-s3") == outputs(tmp_path / "workspace")
    assert server.endpoint not in (tmp_path / "on-s3" / "metrics.json").read_text()


def test_a_store_that_is_not_there_ends_the_run_with_its_name_and_no_key(series: Path, tmp_path: Path) -> None:
    with S3Server(tmp_path / "server") as server:
        options = ("--engine", "numpy", "--store", "s3://no-such-bucket/x")
        done = ctbasis("run", series, "--out", tmp_path / "out", *options, env=server.environment())
    assert done.returncode == 2
    assert "ctbasis: error: matrix: there is no bucket 'no-such-bucket'" in done.stderr
    assert server.secret_key not in done.stdout + done.stderr
    assert left_behind(tmp_path) == []


def test_a_basis_on_s3_is_reconstructed_as_it_lies_there(finished: Finished, tmp_path: Path) -> None:
    with S3Server(tmp_path / "server") as server:
        server.put_folder(finished[0] / "basis", "s3://kept/lung/basis")
        for basis, out in ((finished[0] / "basis", "here"), ("s3://kept/lung/basis", "there")):
            options = ("--rank", 3, "--out", tmp_path / out)
            done = ctbasis("reconstruct", basis, *options, env=server.environment())
            assert done.returncode == 0, done.stderr
    assert outputs_of(tmp_path / "here") == outputs_of(tmp_path / "there")


def outputs_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_that_is_told_to_stop_leaves_nothing_on_s3(series: Path, tmp_path: Path) -> None:
    with S3Server(tmp_path / "server") as server:
        server.client().create_bucket(Bucket="scratch")
        command = [str(CTBASIS), "run", str(series), "--out", str(tmp_path / "out"), "--engine", "numpy"]
        command += ["--store", "s3://scratch/ct"]
        env = {**os.environ, **server.environment()}
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env) as run:
            assert run.stdout is not None
            for line in run.stdout:
                if line.startswith("matrix success"):
                    break
            stored_then = objects(server, "scratch")
            run.terminate()
            run.communicate(timeout=60)
        assert run.returncode == 130
        assert any("/matrix.zarr/A/c/" in key for key in stored_then)
        assert objects(server, "scratch") == []
    assert left_behind(tmp_path) == []


@pytest.mark.java
def test_a_run_that_is_told_to_stop_ends_its_steps_and_leaves_nothing(series: Path, tmp_path: Path) -> None:
    command = [str(CTBASIS), "run", str(series), "--out", str(tmp_path / "out"), "--engine", "mahout", "--rank", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as run:
        assert run.stdout is not None
        for line in run.stdout:
            if line.startswith("svd ..."):
                break
        spark = _wait_for_spark(run.pid)
        run.terminate()
        run.communicate(timeout=60)
    assert run.returncode == 130
    assert not [process for process in spark if process.is_running()]
    assert left_behind(tmp_path) == []


def _wait_for_spark(pid: int) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [p for p in psutil.Process(pid).children(recursive=True) if "java" in p.name()]
        if found:
            return found
        time.sleep(0.2)
    raise AssertionError("Spark did not start")
