"""The driver program: whole factors or none, exit codes, and errors in words, with and without Spark."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyspark
import pytest

from ctbasis.errors import CtbasisError, error_in_log
from ctbasis.matrix import store
from ctbasis.spark import job
from ctbasis.svd.engines.mahout import REQUIRED_CONF
from ctbasis.svd.factors import FactorStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ctbasis.matrix.store import MatrixStore

    StoreMatrix = Callable[..., MatrixStore]

CHECKOUT = Path(__file__).parents[3]
PROGRAM = CHECKOUT / "components" / "svd" / "job.py"
JAR = CHECKOUT / "images" / "spark" / "mahout" / "target" / "ctbasis-mahout.jar"
SPARK_SUBMIT = Path(pyspark.__file__).parent / "bin" / "spark-submit"


def arguments(matrix: MatrixStore, factors: Path, *more: str, engine: str = "numpy") -> list[str]:
    return ["--matrix", matrix.uri, "--factors", str(factors), "--engine", engine, *more]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    environment |= {"PYTHONPATH": str(CHECKOUT), "SPARK_LOCAL_IP": "127.0.0.1"}
    # spark-submit passes on what the program writes to either stream on its standard output.
    return subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )


def submit(*job_arguments: str) -> subprocess.CompletedProcess[str]:
    if not JAR.exists():
        pytest.fail(f"{JAR.name} is absent; `make setup` builds it")
    conf = {**REQUIRED_CONF, "spark.driver.memory": "1g", "spark.ui.enabled": "false", "spark.log.level": "ERROR"}
    settings = [part for key, value in conf.items() for part in ("--conf", f"{key}={value}")]
    return run(str(SPARK_SUBMIT), "--master", "local[2]", "--jars", str(JAR), *settings, str(PROGRAM), *job_arguments)


@pytest.fixture
def matrix(store_matrix: StoreMatrix, monkeypatch: pytest.MonkeyPatch) -> MatrixStore:
    """Return a matrix of 600 x 8 in three row blocks."""
    monkeypatch.setattr(store, "BLOCK_ELEMENTS", 1)
    return store_matrix(np.random.default_rng(0).integers(-1000, 3000, (600, 8), dtype=np.int16))


def product(factors: FactorStore) -> NDArray[Any]:
    return np.vstack([factors.read_block(index) for index in range(factors.block_count)]) @ factors.weights.T


def test_what_was_asked_run_and_noted_is_in_the_factors(
    matrix: MatrixStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job.run(job.parse(arguments(matrix, tmp_path / "f", "--rank", "9", "--seed", "3", "--dtype", "float64")))
    factors = FactorStore.open(str(tmp_path / "f"))
    assert (factors.plan.rank_asked, factors.plan.rank, factors.plan.oversample, factors.plan.seed) == (9, 8, 0, 3)
    assert factors.plan.note
    np.testing.assert_allclose(product(factors), matrix.read_columns(slice(None)), atol=1e-8)
    said = capsys.readouterr().err
    assert "rank 9 was asked, 8 is run" in said
    assert "numpy factors 600 x 8 in 3 blocks: k=8, p=0, q=2" in said


def test_u_is_float32_unless_float64_is_asked(matrix: MatrixStore, tmp_path: Path) -> None:
    for dtype, more in (("float32", []), ("float64", ["--dtype", "float64"])):
        job.run(job.parse(arguments(matrix, tmp_path / dtype, "--rank", "2", *more)))
        assert FactorStore.open(str(tmp_path / dtype)).read_block(0).dtype == dtype


def test_nothing_that_looks_whole_is_left_where_the_engine_fails(store_matrix: StoreMatrix, tmp_path: Path) -> None:
    A = np.ones((300, 3), np.float32)
    A[5, 1] = np.inf
    with pytest.raises(CtbasisError, match="NaN or Inf"):
        job.run(job.parse(arguments(store_matrix(A), tmp_path / "f", "--rank", "2")))
    with pytest.raises(CtbasisError, match="not complete"):
        FactorStore.open(str(tmp_path / "f"))


@pytest.mark.parametrize("missing", ["--matrix", "--factors", "--engine", "--rank"])
def test_a_command_line_without_what_it_needs_exits_with_2(
    missing: str, matrix: MatrixStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = arguments(matrix, tmp_path / "f", "--rank", "2")
    at = whole.index(missing)
    with pytest.raises(SystemExit) as left:
        job.parse(whole[:at] + whole[at + 2 :])
    assert left.value.code == 2
    assert missing in capsys.readouterr().err


def test_a_refusal_is_marked_lines_and_exit_code_2(matrix: MatrixStore, tmp_path: Path) -> None:
    done = run(sys.executable, str(PROGRAM), *arguments(matrix, tmp_path / "f", "--rank", "0"))
    assert done.returncode == 2
    assert error_in_log(done.stdout.splitlines()) == "rank is 0\n  expected: a whole number, at least 1"
    assert "Traceback" not in done.stdout


@pytest.mark.java
def test_under_spark_submit_mahout_factors_the_matrix_and_each_job_says_a_line(
    matrix: MatrixStore, tmp_path: Path
) -> None:
    done = submit(*arguments(matrix, tmp_path / "f", "--rank", "8", "--dtype", "float64", engine="mahout"))
    assert done.returncode == 0, done.stdout
    factors = FactorStore.open(str(tmp_path / "f"))
    np.testing.assert_allclose(product(factors), matrix.read_columns(slice(None)), atol=1e-6)
    assert "dssvd" in factors.plan.note
    assert "spark: job 0 (dssvd k=8 p=0 q=2)" in done.stdout
    assert "(write U)" in done.stdout
    assert "INFO DAGScheduler" not in done.stdout


@pytest.mark.java
def test_under_spark_submit_what_a_task_refuses_comes_out_in_words_with_exit_code_2(
    store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    A = np.ones((300, 3), np.float32)
    A[5, 1] = np.inf
    done = submit(*arguments(store_matrix(A), tmp_path / "f", "--rank", "2", engine="mahout"))
    assert done.returncode == 2, done.stdout
    assert "NaN or Inf in rows 0 to 300 of the matrix\n  expected: finite HU" in error_in_log(done.stdout.splitlines())
    assert "Traceback" not in done.stdout
    assert "\tat " not in done.stdout


@pytest.mark.java
def test_spark_without_mahout_is_refused_and_the_setting_named(matrix: MatrixStore, tmp_path: Path) -> None:
    done = run(sys.executable, str(PROGRAM), *arguments(matrix, tmp_path / "f", "--rank", "2", engine="mahout"))
    assert done.returncode == 2, done.stdout
    refused = error_in_log(done.stdout.splitlines())
    assert "spark.kryo.registrator=None" in refused
    assert "manifests/sparkapplication.yaml" in refused


@pytest.mark.parametrize("missing", ["--matrix", "--denoised"])
def test_patch_mode_says_what_it_lacks(
    missing: str, store_matrix: StoreMatrix, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = store_matrix(np.ones((20, 4), np.int16))
    whole = ["--mode", "patch", "--denoised", str(tmp_path / "d"), *arguments(matrix, tmp_path / "f")]
    assert job.parse(whole).mode == "patch"
    at = whole.index(missing)
    with pytest.raises(SystemExit) as ended:
        job.parse([*whole[:at], *whole[at + 2 :]])
    assert ended.value.code == 2
    assert missing in capsys.readouterr().err
