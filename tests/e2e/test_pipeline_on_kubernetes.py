"""The compiled pipeline on a cluster, pod by pod as in Kubeflow, gives the same results as on one machine."""

from __future__ import annotations

import json
import math
import os
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
import pytest

from ctbasis.kubeflow import local
from ctbasis.patch.bases import PatchBases
from ctbasis.svd.factors import FactorStore
from tests.e2e.kfp_namespace import small_package

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
    runs: RunNamespace, ct: Path, reference: Reference, tmp_path: Path
) -> None:
    run = runs.run(small_package(), source=runs.upload(ct), engine="numpy", **ARGUMENTS).succeed()
    here, there = reference("numpy"), outputs(runs, run, tmp_path)
    assert np.array_equal(pixels(here / "denoised"), pixels(there / "denoised"))
    one, other = FactorStore.open(str(here / "basis")), FactorStore.open(str(there / "basis"))
    assert np.array_equal(one.s, other.s)
    assert np.array_equal(product(one), product(other))
    assert not apart(*(json.loads((folder / "metrics.json").read_text()) for folder in (here, there)))
    assert not runs.applications(), "the numpy engine needs no SparkApplication"


def test_mahout_on_executors_gives_what_it_gives_on_one_machine(
    runs: RunNamespace, ct: Path, reference: Reference, tmp_path: Path
) -> None:
    runs.change_template()
    run = runs.run(small_package(), source=runs.upload(ct), engine="mahout", **ARGUMENTS).succeed()
    sys.stderr.write(f"\n{transcript(runs, run)}")
    here, there = reference("mahout"), outputs(runs, run, tmp_path)
    one, other = FactorStore.open(str(here / "basis")), FactorStore.open(str(there / "basis"))
    assert np.allclose(one.s, other.s, rtol=SINGULAR_VALUES, atol=0)
    first, second = product(one), product(other)
    assert np.linalg.norm(first - second) <= PRODUCT * np.linalg.norm(first)
    difference = np.abs(pixels(here / "denoised").astype(int) - pixels(there / "denoised"))
    assert difference.max() <= 1, "HU, by rounding"
    assert not apart(*(json.loads((folder / "metrics.json").read_text()) for folder in (here, there)))


def test_patch_mode_on_executors_gives_what_it_gives_on_one_machine(
    runs: RunNamespace, ct: Path, reference: Reference, tmp_path: Path
) -> None:
    runs.change_template()
    run = runs.run(small_package(), source=runs.upload(ct), engine="spark", **PATCH).succeed()
    sys.stderr.write(f"\n{transcript(runs, run)}")
    here, there = reference("numpy", **PATCH), outputs(runs, run, tmp_path)
    difference = np.abs(pixels(here / "denoised").astype(int) - pixels(there / "denoised"))
    # The difference is rounding; a weight that is equal to tau within rounding may be kept or dropped.
    assert np.quantile(difference, 0.999) <= 1
    one, other = (PatchBases.open(str(folder / "basis")).bases[0] for folder in (here, there))
    assert other.provenance["patches"] == one.provenance["patches"]
    for mine, yours in zip(one.textures, other.textures, strict=True):
        np.testing.assert_allclose(yours.energy, mine.energy, rtol=1e-3, atol=1e-3)
    noise = runs.artifact(run, "reconstruct", "noise", tmp_path / "noise")
    assert np.abs(pixels(here / "noise").astype(int) - pixels(noise)).max() <= 1


def test_a_failed_run_reports_the_cause_and_the_exit_handler_runs(runs: RunNamespace) -> None:
    package = small_package()
    for task in package.tasks():
        task.pop("retryPolicy", None)
    run = runs.run(package, source=f"s3://{runs.name}/nothing-is-here", engine="numpy").finish()
    assert run.state == "FAILED"
    assert "nothing-is-here" in run.log("fetch"), run.end()
    assert "cleanup: the run FAILED" in run.log("cleanup")
    assert {one.task for one in run.tries} == {"fetch", "cleanup"}, "no step runs without the fetched files"


def transcript(runs: RunNamespace, run: Run) -> str:
    """Return the transcript of a run that docs/explanation/cluster.md shows."""
    steps = "\n".join(
        f"  {one.pod.removeprefix(run.name + '-'):<14} {one.phase:<10} {one.seconds:6.1f} s" for one in run.tries
    )
    return f"{run.state} in {run.seconds:.0f} s\n{steps}\n{runs.kubectl('get', 'sparkapplications')}"
