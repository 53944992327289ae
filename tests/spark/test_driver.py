"""The driver program writes complete factors or none, and ends with an exit code and a readable error."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyspark
import pytest

from ctbasis.errors import CtbasisError, error_in_log
from ctbasis.installed import JARS_VARIABLE, LAYOUT, VERSION
from ctbasis.matrix import store
from ctbasis.parameters import DeidentificationPlan, SvdPlan
from ctbasis.spark import driver
from ctbasis.spark.driver import Job
from ctbasis.svd.engines.mahout_bridge import REQUIRED_CONF
from ctbasis.svd.factors import FactorStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from ctbasis.matrix.store import MatrixStore

    StoreMatrix = Callable[..., MatrixStore]

PROGRAM = LAYOUT.package / "spark" / "driver.py"
JAR = LAYOUT.jars / "ctbasis-mahout.jar"
SPARK_SUBMIT = Path(pyspark.__file__).parent / "bin" / "spark-submit"

DECLARATION = """
    dummy: str = parameter("default", "A parameter that no other file names.", group=Group.METHOD)
"""


def job(matrix: MatrixStore, factors: Path, *, dtype: str = "float32", **parameters: Any) -> Job:
    plan = SvdPlan.of(**{"engine": "numpy", **parameters})
    return Job(plan, str(factors), matrix=matrix.uri, dtype=dtype)


def run(*command: str, checkout: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYSPARK_DRIVER_PYTHON": sys.executable}
    environment |= {"PYTHONPATH": str(checkout or LAYOUT.package.parent), "SPARK_LOCAL_IP": "127.0.0.1"}
    # spark-submit writes the program's output and errors to its own standard output.
    return subprocess.run(
        command,
        # `python -c` imports from its working directory first.
        cwd=checkout,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )


def submit(*arguments: str) -> subprocess.CompletedProcess[str]:
    if not JAR.exists():
        pytest.fail(f"{JAR.name} is absent; `make setup` builds it")
    conf = {**REQUIRED_CONF, "spark.driver.memory": "1g", "spark.ui.enabled": "false", "spark.log.level": "ERROR"}
    settings = [part for key, value in conf.items() for part in ("--conf", f"{key}={value}")]
    return run(str(SPARK_SUBMIT), "--master", "local[2]", "--jars", str(JAR), *settings, str(PROGRAM), *arguments)


@pytest.fixture
def matrix(store_matrix: StoreMatrix, monkeypatch: pytest.MonkeyPatch) -> MatrixStore:
    """Return a matrix of 600 x 8 in three row blocks."""
    monkeypatch.setattr(store, "BLOCK_ELEMENTS", 1)
    return store_matrix(np.random.default_rng(0).integers(-1000, 3000, (600, 8), dtype=np.int16))


def product(factors: FactorStore) -> NDArray[Any]:
    return np.vstack([factors.read_block(index) for index in range(factors.block_count)]) @ factors.weights.T


def test_the_parameters_as_given_and_as_run_are_in_the_factors_and_in_the_log(
    matrix: MatrixStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = job(matrix, tmp_path / "f", rank="9", seed=3, dtype="float64")
    driver.run(given)
    factors = FactorStore.open(str(tmp_path / "f"))
    assert (factors.plan.rank_asked, factors.plan.rank, factors.plan.oversample, factors.plan.seed) == (9, 8, 0, 3)
    assert factors.plan.note
    np.testing.assert_allclose(product(factors), matrix.read_columns(slice(None)), atol=1e-8)
    log = capsys.readouterr().err
    assert f"svd: plan {given.plan.to_json()}" in log
    assert "rank 9 is reduced to 8" in log
    assert "numpy factors 600 x 8 in 3 blocks: k=8, p=0, q=2" in log


def test_u_has_the_type_of_the_job(matrix: MatrixStore, tmp_path: Path) -> None:
    for dtype in ("float32", "float64"):
        driver.run(job(matrix, tmp_path / dtype, rank="2", dtype=dtype))
        assert FactorStore.open(str(tmp_path / dtype)).read_block(0).dtype == dtype


def test_an_engine_that_fails_leaves_no_store_that_can_be_opened(store_matrix: StoreMatrix, tmp_path: Path) -> None:
    A = np.ones((300, 3), np.float32)
    A[5, 1] = np.inf
    with pytest.raises(CtbasisError, match="NaN or Inf"):
        driver.run(job(store_matrix(A), tmp_path / "f", rank="2"))
    with pytest.raises(CtbasisError, match="not complete"):
        FactorStore.open(str(tmp_path / "f"))


@pytest.mark.parametrize(
    "job",
    [
        Job(SvdPlan.of(engine="numpy", rank="3"), "/f", matrix="/m"),
        Job(SvdPlan.of(engine="mahout", mode="patch", tau=2.5), "/f", matrix="/m", denoised="/d", dtype="float64"),
        Job(
            SvdPlan.of(engine="spark", basis="a b/'\"ü"),
            "/f",
            source="s3://bucket/prefix",
            deidentification=DeidentificationPlan(True, "uids"),
            qc="/qc.json",
        ),
    ],
)
def test_a_job_survives_its_command_line(job: Job) -> None:
    assert Job.parse(job.arguments()) == job


@pytest.mark.parametrize("missing", ["--factors", "--plan"])
def test_a_command_line_without_a_required_option_is_refused_by_name(
    missing: str, matrix: MatrixStore, tmp_path: Path
) -> None:
    whole = job(matrix, tmp_path / "f", rank="2").arguments()
    at = whole.index(missing)
    with pytest.raises(CtbasisError, match=missing):
        Job.parse(whole[:at] + whole[at + 2 :])


def test_a_command_line_of_another_version_is_refused_before_anything_else_is_read(tmp_path: Path) -> None:
    """Steps and Spark image of two versions: the driver names both, whatever the other options are."""
    for others in ([], ["--option-of-tomorrow", "x"], ["--plan", "no JSON"]):
        both = rf"the step has ctbasis 0\.0\.9, and the image of its job has ctbasis {VERSION}"
        with pytest.raises(CtbasisError, match=both):
            Job.parse(["--release", "0.0.9", "--factors", str(tmp_path), *others])


def test_an_unknown_option_is_refused_with_the_version_as_its_cause(matrix: MatrixStore, tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match=rf"--option-of-tomorrow(?s:.)*another version of ctbasis than {VERSION}"):
        Job.parse([*job(matrix, tmp_path / "f", rank="2").arguments(), "--option-of-tomorrow", "x"])


@pytest.mark.parametrize(
    ("parameters", "places", "message"),
    [
        ({}, {}, "both or neither of --matrix and --source"),
        ({}, {"matrix": "/m", "source": "/s"}, "both or neither of --matrix and --source"),
        ({}, {"source": "/s"}, "--source is given for mode global with engine numpy"),
        ({"engine": "auto"}, {"matrix": "/m"}, "the engine is auto"),
        ({"mode": "patch"}, {"matrix": "/m"}, "mode is patch, and --denoised is missing"),
        ({}, {"matrix": "/m", "denoised": "/d"}, "mode is global, and --denoised is given"),
        ({}, {"matrix": "/m", "qc": "/qc.json"}, "--deidentification or --qc is given without --source"),
    ],
)
def test_a_job_whose_parts_do_not_fit_together_is_refused(
    parameters: dict[str, Any], places: dict[str, str], message: str
) -> None:
    with pytest.raises(CtbasisError, match=message):
        Job(SvdPlan.of(**{"engine": "numpy", **parameters}), "/f", **places)


def test_a_rank_rule_is_refused_because_the_step_resolves_it(matrix: MatrixStore, tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match="rank is auto:gd\n"):
        driver.run(job(matrix, tmp_path / "f", rank="auto"))


def test_a_refusal_is_marked_lines_and_exit_code_2(matrix: MatrixStore, tmp_path: Path) -> None:
    arguments = job(matrix, tmp_path / "f", rank="2", oversample=7).arguments()
    done = run(
        sys.executable, str(PROGRAM), *[part.replace('"oversample": 7', '"oversample": -7') for part in arguments]
    )
    assert done.returncode == 2
    assert error_in_log(done.stdout.splitlines()) == "oversample is -7\n  expected: a whole number from 0 to 10000"
    assert "Traceback" not in done.stdout


@pytest.mark.java
def test_mahout_factors_the_matrix_under_spark_submit_and_logs_a_line_a_job(
    matrix: MatrixStore, tmp_path: Path
) -> None:
    done = submit(*job(matrix, tmp_path / "f", rank="8", dtype="float64", engine="mahout").arguments())
    assert done.returncode == 0, done.stdout
    factors = FactorStore.open(str(tmp_path / "f"))
    np.testing.assert_allclose(product(factors), matrix.read_columns(slice(None)), atol=1e-6)
    assert "dssvd" in factors.plan.note
    assert "spark: job 0 (dssvd k=8 p=0 q=2)" in done.stdout
    assert "(write U)" in done.stdout
    assert "INFO DAGScheduler" not in done.stdout


@pytest.mark.java
def test_a_refusal_of_a_spark_task_is_the_drivers_own_under_spark_submit(
    store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    A = np.ones((300, 3), np.float32)
    A[5, 1] = np.inf
    done = submit(*job(store_matrix(A), tmp_path / "f", rank="2", engine="mahout").arguments())
    assert done.returncode == 2, done.stdout
    assert "holds NaN or Inf in rows 0 to 300\n  expected: finite numbers" in error_in_log(done.stdout.splitlines())
    assert "Traceback" not in done.stdout
    assert "\tat " not in done.stdout


@pytest.mark.java
def test_spark_without_mahout_is_refused_and_the_setting_named(matrix: MatrixStore, tmp_path: Path) -> None:
    done = run(sys.executable, str(PROGRAM), *job(matrix, tmp_path / "f", rank="2", engine="mahout").arguments())
    assert done.returncode == 2, done.stdout
    refused = error_in_log(done.stdout.splitlines())
    assert "spark.kryo.registrator=None" in refused
    assert "manifests/sparkapplication.yaml" in refused


@pytest.fixture
def changed_checkout(tmp_path: Path) -> Path:
    """Return a copy of ctbasis in which parameters.py declares one parameter more, and no other file differs."""
    checkout = tmp_path / "checkout"
    shutil.copytree(LAYOUT.package, checkout / "ctbasis", ignore=shutil.ignore_patterns("__pycache__", "data"))
    shutil.copytree(LAYOUT.manifests, checkout / "manifests")
    declarations = checkout / "ctbasis" / "parameters.py"
    text = declarations.read_text()
    place = re.search(r"\n    global_mode: GlobalMode = ", text)
    assert place is not None
    declarations.write_text(text[: place.start()] + DECLARATION + text[place.start() :])
    return checkout


STEP = """
import sys
from ctbasis.parameters import SvdPlan
from ctbasis.steps.svd import factorize
factorize(sys.argv[1], sys.argv[2], SvdPlan.of(engine=sys.argv[3], rank="2", ranks="2", dummy="it arrived"))
"""


@pytest.mark.parametrize("engine", ["numpy", pytest.param("spark", marks=pytest.mark.java)])
def test_a_new_parameter_arrives_in_the_driver_and_no_file_but_parameters_py_is_touched(
    engine: str, changed_checkout: Path, matrix: MatrixStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(JARS_VARIABLE, str(LAYOUT.jars))
    factors = tmp_path / "f"
    done = run(sys.executable, "-c", STEP, matrix.uri, str(factors), engine, checkout=changed_checkout)
    assert done.returncode == 0, done.stdout
    (plan,) = re.findall(r"^svd: plan (.+)$", done.stdout, re.MULTILINE)
    assert json.loads(plan)["dummy"] == "it arrived"
    assert FactorStore.open(str(factors)).plan.engine == engine
