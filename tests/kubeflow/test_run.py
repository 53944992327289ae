"""The compiled pipeline runs on this machine, from a folder and from S3, and a failed run leaves nothing behind."""

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
from ctbasis.storage.outputs import RESULT
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


def kept_files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def left_behind(folder: Path) -> list[str]:
    """Return the names of files that a failed run left beside its output folder."""
    return sorted(path.name for path in folder.iterdir() if "out" in path.name)


@pytest.fixture(scope="module")
def finished(series: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """Return the folder of a run at full rank by engine numpy, and its console output."""
    out = tmp_path_factory.mktemp("run") / "out"
    done = ctbasis("run", series, "--out", out, "--engine", "numpy", "--rank", 6, "--ranks", "2,300")
    assert done.returncode == 0, done.stderr + done.stdout
    return out, done


def test_a_folder_becomes_denoised_dicom_basis_pictures_and_numbers(finished: Finished, series: Path) -> None:
    out, done = finished
    assert {path.name for path in out.iterdir()} == OUTPUTS | {RESULT}
    # Not at the exit of a step either, where libraries stop their threads.
    assert "Traceback" not in done.stdout + done.stderr
    assert stored(out / "denoised").shape == stored(series).shape
    assert (FactorStore.open(str(out / "basis")).rank, FactorStore.open(str(out / "basis")).cols) == (6, 6)
    metrics = json.loads((out / "metrics.json").read_text())
    assert (metrics["rank"], metrics["cols"]) == (6, 6)
    with Image.open(out / "figure1.png") as figure:
        figure.verify()
    assert "<html" in (out / "report.html").read_text()
    assert len(json.loads((out / "qc.json").read_text())["slices"]) == 6
    assert left_behind(out.parent) == ["out"]


def test_only_the_dicom_files_contain_the_name_and_id_of_the_patient(finished: Finished) -> None:
    out, done = finished
    texts = [done.stdout, done.stderr]
    texts += [(out / name).read_text() for name in ("report.html", "metrics.json", "qc.json")]
    for text in texts:
        assert "Made^Up" not in text
        assert "TEST-1" not in text


def test_at_full_rank_the_denoised_pixels_equal_the_source(finished: Finished, series: Path) -> None:
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


def test_a_second_run_replaces_the_output_of_the_first_and_reports_the_rank_that_auto_chose(
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
def test_invalid_parameters_are_refused_before_any_step_starts(
    options: tuple[str, ...], said: str, series: Path, tmp_path: Path
) -> None:
    done = ctbasis("run", series, "--out", tmp_path / "out", *options)
    assert done.returncode == 2
    assert said in done.stderr
    assert left_behind(tmp_path) == []


def test_a_truth_of_another_place_is_refused_by_name_and_nothing_is_written(series: Path, tmp_path: Path) -> None:
    shutil.copytree(series, tmp_path / "moved")
    for path in (tmp_path / "moved").iterdir():
        dataset = pydicom.dcmread(path)
        x, y, z = map(float, dataset.ImagePositionPatient)
        dataset.ImagePositionPatient = [x, y, z + 40]
        dataset.save_as(path)
    options = ("--truth", tmp_path / "moved", "--out", tmp_path / "out", "--engine", "numpy", "--rank", 2, "--ranks", 2)
    done = ctbasis("run", series, *options)
    assert done.returncode == 2, done.stdout
    assert "they are not copies of one scan" in done.stderr
    assert "ImagePositionPatient" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("case", ["nothing", "empty", "pictures"])
def test_a_source_without_ct_is_refused_and_nothing_is_written(case: str, tmp_path: Path) -> None:
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
def test_a_series_on_s3_is_denoised_by_mahout(finished: Finished, series: Path, tmp_path: Path) -> None:
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


def test_wrong_s3_keys_are_reported_and_not_shown(tmp_path: Path, series: Path) -> None:
    with S3Server(tmp_path / "s3") as server:
        server.put_folder(series, "s3://hospital/lung")
        env = {**server.environment(), "AWS_SECRET_ACCESS_KEY": "not-the-right-one"}
        done = ctbasis("run", "s3://hospital/lung", "--out", tmp_path / "out", "--engine", "numpy", env=env)
    assert done.returncode == 2
    assert "ctbasis: error: fetch: " in done.stderr
    assert "not-the-right-one" not in done.stdout + done.stderr
    assert left_behind(tmp_path) == []


def outputs(out: Path) -> dict[str, bytes]:
    """Return the files of a run except those that contain the time."""
    kept = ("denoised", "basis", "figure1.png", "qc.json")
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.relative_to(out).parts[0] in kept
    }


def objects(server: S3Server, bucket: str) -> list[str]:
    return [entry["Key"] for entry in server.client().list_objects_v2(Bucket=bucket).get("Contents", [])]


@pytest.mark.parametrize("engine", ["numpy", pytest.param("mahout", marks=pytest.mark.java)])
def test_stores_on_s3_give_the_same_outputs_and_are_deleted_afterwards(
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


def test_a_missing_bucket_ends_the_run_with_its_name_and_no_key(series: Path, tmp_path: Path) -> None:
    with S3Server(tmp_path / "server") as server:
        options = ("--engine", "numpy", "--store", "s3://no-such-bucket/x")
        done = ctbasis("run", series, "--out", tmp_path / "out", *options, env=server.environment())
    assert done.returncode == 2
    assert "ctbasis: error: matrix: there is no bucket 'no-such-bucket'" in done.stderr
    assert server.secret_key not in done.stdout + done.stderr
    assert left_behind(tmp_path) == []


def test_a_basis_on_s3_is_reconstructed_without_a_copy(finished: Finished, tmp_path: Path) -> None:
    with S3Server(tmp_path / "server") as server:
        server.put_folder(finished[0] / "basis", "s3://kept/lung/basis")
        for basis, out in ((finished[0] / "basis", "here"), ("s3://kept/lung/basis", "there")):
            options = ("--rank", 3, "--out", tmp_path / out)
            done = ctbasis("reconstruct", basis, *options, env=server.environment())
            assert done.returncode == 0, done.stderr
    assert outputs_of(tmp_path / "here") == outputs_of(tmp_path / "there")


def outputs_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_stopped_run_leaves_nothing_on_s3(series: Path, tmp_path: Path) -> None:
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
def test_a_stopped_run_stops_its_steps_and_leaves_nothing(series: Path, tmp_path: Path) -> None:
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


@pytest.mark.parametrize("name", ["out.partial", ".out.partial", ".out.former"])
def test_a_users_folder_beside_the_output_folder_stays(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("precious")
    done = ctbasis("run", tmp_path / "nothing", "--out", tmp_path / "out", "--engine", "numpy")
    assert done.returncode == 2
    assert kept_files(tmp_path) == {f"{name}/notes.txt": b"precious"}


def test_a_folder_that_holds_other_files_beside_a_result_is_refused_and_kept(
    finished: Finished, tmp_path: Path
) -> None:
    shutil.copytree(finished[0], tmp_path / "out")
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    before = kept_files(tmp_path)
    done = ctbasis("run", finished[0] / "denoised", "--out", tmp_path / "out", "--engine", "numpy")
    assert done.returncode == 2
    assert "thesis.tex, which ctbasis did not write" in done.stderr
    assert {name: kept_files(tmp_path)[name] for name in before} == before


def test_a_source_inside_the_output_folder_is_refused_and_kept(finished: Finished, tmp_path: Path) -> None:
    shutil.copytree(finished[0], tmp_path / "out")
    before = kept_files(tmp_path)
    done = ctbasis("run", tmp_path / "out" / "denoised", "--out", tmp_path / "out", "--engine", "numpy")
    assert done.returncode == 2
    assert "lie in each other" in done.stderr
    assert kept_files(tmp_path) == before


def test_a_second_run_into_one_folder_is_told_who_writes_there(series: Path, tmp_path: Path) -> None:
    options = ("--out", str(tmp_path / "out"), "--engine", "numpy", "--rank", "2")
    with subprocess.Popen([str(CTBASIS), "run", str(series), *options], stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        first.stdout.readline()
        second = ctbasis("run", series, *options)
        first.communicate(timeout=120)
    assert first.returncode == 0
    assert second.returncode == 2
    assert f"is being written by process {first.pid} on " in second.stderr
    assert left_behind(tmp_path) == ["out"]


def test_a_killed_run_ends_its_steps_and_leaves_nothing_of_the_patient(series: Path, tmp_path: Path) -> None:
    shutil.copytree(series, tmp_path / "ct")
    command = [str(CTBASIS), "run", str(tmp_path / "ct"), "--out", str(tmp_path / "out"), "--engine", "numpy"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        next(line for line in run.stdout if line.startswith("matrix"))
        steps = [child.pid for child in psutil.Process(run.pid).children(recursive=True)]
        run.kill()
    assert steps, "no step was running"
    deadline = time.monotonic() + 20
    while (left_behind(tmp_path) or any(map(psutil.pid_exists, steps))) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left_behind(tmp_path) == []
    assert [pid for pid in steps if psutil.pid_exists(pid)] == []
