"""The compiled pipeline on Argo Workflows gives the same results as on one machine.

The runs start together, because most of a run on Argo is waiting.
"""

from __future__ import annotations

import json
import math
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEGLSLossless

from ctbasis.kubeflow import local
from ctbasis.svd.factors import FactorStore
from tests.e2e.cluster import STEPS_IMAGE
from tests.e2e.kfp_namespace import ACCESS_MODE, PULL_SECRET, small_package
from tests.e2e.svd_runs import application, application_of, same_patch_basis

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.e2e.kfp_namespace import RunNamespace
    from tests.e2e.kfp_run import Run

    Reference = Callable[..., Path]

pytestmark = pytest.mark.e2e

ARGUMENTS = {"rank": "20", "ranks": "20,50", "seed": 7}
OUTPUTS = {"denoised": ("reconstruct", "denoised"), "basis": ("svd", "basis"), "metrics.json": ("report", "metrics")}
PATCH = {"mode": "patch", "seed": 7}
STORE = "stores"
OUTPUT = {"deidentify": True, "compress": "jpeg-ls"}
"""Arguments that change the files of the series, and not its pixels."""

SINGULAR_VALUES, PRODUCT, METRIC = 1e-6, 1e-5, 1e-3
"""Relative tolerances between two runs of Mahout: executors add in the order of their ends, and U is float32."""


@pytest.fixture(scope="module")
def reference(ct: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """Return a function that runs the pipeline on this machine, with an engine and changes to ARGUMENTS."""
    made: dict[str, Path] = {}

    def run(engine: str, **arguments: Any) -> Path:
        arguments = arguments or ARGUMENTS
        name = f"{engine}-{arguments.get('mode', 'global')}"
        if name not in made:
            out = tmp_path_factory.mktemp("reference") / name
            with pytest.MonkeyPatch.context() as patch:
                # The pods do not have these variables, and another OpenBLAS kernel would change the last bits.
                for variable in [variable for variable in os.environ if variable.startswith("OPENBLAS_")]:
                    patch.delenv(variable)
                made[name] = local.run({"source": str(ct), "engine": engine, **arguments}, out=out).out
        return made[name]

    return run


@pytest.fixture(scope="module")
def started(runs: RunNamespace, ct: Path) -> dict[str, Run]:
    """Return the runs of this module, all started."""
    runs.change_template()
    package, source = small_package(), runs.upload(ct)
    return {
        "mahout": runs.run(package, source=source, engine="mahout", **ARGUMENTS),
        "patch": runs.run(package, source=source, engine="spark", **PATCH, **OUTPUT),
        "on S3": runs.run(package, source=source, engine="mahout", store=f"s3://{runs.name}/{STORE}", **ARGUMENTS),
        "numpy": runs.run(package, source=source, engine="numpy", **ARGUMENTS),
    }


def outputs(runs: RunNamespace, run: Run, folder: Path) -> Path:
    """Copy the outputs of a run to this machine, under the names of a local run."""
    for name, (task, artifact) in OUTPUTS.items():
        runs.artifact(run, task, artifact, folder / name).replace(folder / f"{name}.whole")
        (folder / name).rmdir()
        (folder / f"{name}.whole").replace(folder / name)
    return folder


def pixels(folder: Path) -> np.ndarray[Any, np.dtype[np.int16]]:
    """Return the series in HU as stored, (slices, rows, columns), ordered by position."""
    slices = [pydicom.dcmread(path) for path in folder.rglob("*") if path.is_file()]
    slices.sort(key=lambda ds: [float(value) for value in ds.ImagePositionPatient])
    return np.stack([ds.pixel_array for ds in slices])


def product(factors: FactorStore) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.vstack([factors.read_block(block) for block in range(factors.block_count)]) @ factors.weights.T


def apart(one: Any, other: Any, path: str = "") -> list[str]:
    """Return the paths at which two JSON documents differ by more than METRIC."""
    if isinstance(one, dict) and isinstance(other, dict):
        return [where for key in one | other for where in apart(one.get(key), other.get(key), f"{path}.{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [where for i, pair in enumerate(zip(one, other, strict=True)) for where in apart(*pair, f"{path}[{i}]")]
    if isinstance(one, float | int) and isinstance(other, float | int):
        return [] if math.isclose(one, other, rel_tol=METRIC, abs_tol=METRIC) else [f"{path}: {one} and {other}"]
    return [] if one == other else [f"{path}: {one!r} and {other!r}"]


def test_the_numpy_engine_gives_the_same_bits_on_a_cluster_as_on_one_machine(
    runs: RunNamespace, started: dict[str, Run], reference: Reference, tmp_path: Path
) -> None:
    run = started["numpy"].succeed()
    here, there = reference("numpy"), outputs(runs, run, tmp_path)
    assert np.array_equal(pixels(here / "denoised"), pixels(there / "denoised"))
    one, other = FactorStore.open(str(here / "basis")), FactorStore.open(str(there / "basis"))
    assert np.array_equal(one.s, other.s)
    assert np.array_equal(product(one), product(other))
    assert not apart(*(json.loads((folder / "metrics.json").read_text()) for folder in (here, there)))
    assert application_of(run) not in {one["metadata"]["name"] for one in runs.applications()}, "it needs no Spark"
    for pod in runs.pods(f"pipeline/runid={run.run_id}"):
        if pod["metadata"]["annotations"]["pipelines.kubeflow.org/runtime-role"] == "launcher":
            (main,) = (one for one in pod["spec"]["containers"] if one["name"] == "main")
            assert (main["image"], main["imagePullPolicy"]) == (STEPS_IMAGE, "IfNotPresent")
            assert pod["spec"]["imagePullSecrets"] == [{"name": PULL_SECRET}], "as `ctbasis compile` was told"
    sys.stderr.write(f"\n{run.overhead()}\n")


def test_mahout_on_executors_gives_what_it_gives_on_one_machine(
    runs: RunNamespace, started: dict[str, Run], reference: Reference, tmp_path: Path
) -> None:
    run = started["mahout"].succeed()
    sys.stderr.write(f"\n{transcript(runs, run)}")
    here, there = reference("mahout"), outputs(runs, run, tmp_path)
    same_result(here, there)
    if ACCESS_MODE == "ReadWriteOnce":
        runs_on_one_node(runs, run)
    assert not apart(*(json.loads((folder / "metrics.json").read_text()) for folder in (here, there)))


def test_executors_without_the_claim_of_the_run_factor_a_matrix_on_s3(
    runs: RunNamespace, started: dict[str, Run], reference: Reference, tmp_path: Path
) -> None:
    store = f"s3://{runs.name}/{STORE}"
    run = started["on S3"].succeed()
    spec = application(runs, run)["spec"]
    assert argument(spec, "--matrix") == f"{store}/{run.run_id}/matrix.zarr"
    assert argument(spec, "--factors") == f"{store}/{run.run_id}/factors.zarr"
    for role in ("driver", "executor"):
        secrets = {entry["name"]: entry["valueFrom"] for entry in spec[role]["env"] if "valueFrom" in entry}
        assert secrets["AWS_SECRET_ACCESS_KEY"]["secretKeyRef"]["name"] == "ctbasis-s3"
        assert not [mount for mount in spec[role].get("volumeMounts", []) if "workspace" in mount["mountPath"]]
    assert "persistentVolumeClaim" not in json.dumps(spec)
    assert runs.keys(STORE) == [], "cleanup leaves nothing"
    same_result(reference("mahout"), outputs(runs, run, tmp_path))


def test_patch_mode_on_executors_gives_what_it_gives_on_one_machine(
    runs: RunNamespace, started: dict[str, Run], reference: Reference, tmp_path: Path
) -> None:
    run = started["patch"].succeed()
    sys.stderr.write(f"\n{transcript(runs, run)}")
    here, there = reference("numpy", **PATCH), outputs(runs, run, tmp_path)
    for path in (there / "denoised").rglob("*.dcm"):
        written = pydicom.dcmread(path, stop_before_pixels=True)
        assert (written.PatientIdentityRemoved, written.file_meta.TransferSyntaxUID) == ("YES", JPEGLSLossless)
    difference = np.abs(pixels(here / "denoised").astype(int) - pixels(there / "denoised"))
    # The difference is rounding; a weight that is equal to tau within rounding may be kept or dropped.
    assert np.quantile(difference, 0.999) <= 1
    same_patch_basis(here / "basis", there / "basis")
    noise = runs.artifact(run, "reconstruct", "noise", tmp_path / "noise")
    assert np.abs(pixels(here / "noise").astype(int) - pixels(noise)).max() <= 1


def runs_on_one_node(runs: RunNamespace, run: Run) -> None:
    """Check that the application was bound to the node of its step, which alone mounts a ReadWriteOnce workspace."""
    (step,) = (one.pod for one in run.tries if one.task == "svd")
    node = json.loads(runs.kubectl("get", "pod", step, "-o", "json"))["spec"]["nodeName"]
    assert f"driver and executors run on the node {node}" in run.log("svd")
    (driver,) = runs.pods(f"sparkoperator.k8s.io/app-name={application_of(run)},spark-role=driver")
    assert driver["spec"]["nodeName"] == node
    spec = application(runs, run)["spec"]
    for role in ("driver", "executor"):
        required = spec[role]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
        (term,) = required["nodeSelectorTerms"]
        assert term["matchFields"] == [{"key": "metadata.name", "operator": "In", "values": [node]}]


def same_result(here: Path, there: Path) -> None:
    """Compare the factors and the denoised series of two runs of Mahout."""
    one, other = FactorStore.open(str(here / "basis")), FactorStore.open(str(there / "basis"))
    assert np.allclose(one.s, other.s, rtol=SINGULAR_VALUES, atol=0)
    first, second = product(one), product(other)
    assert np.linalg.norm(first - second) <= PRODUCT * np.linalg.norm(first)
    assert np.abs(pixels(here / "denoised").astype(int) - pixels(there / "denoised")).max() <= 1, "HU, by rounding"


def argument(spec: dict[str, Any], option: str) -> str:
    """Return the value of an option of an application's driver program."""
    given: list[str] = spec["arguments"]
    return given[given.index(option) + 1]


def transcript(runs: RunNamespace, run: Run) -> str:
    """Return the transcript of a run that docs/explanation/cluster.md shows."""
    steps = "\n".join(f"  {one.task:<20} {one.phase:<10} {one.seconds:6.1f} s" for one in run.pods())
    return f"{run.state} in {run.seconds:.0f} s\n{steps}\n{runs.kubectl('get', 'sparkapplications')}"
