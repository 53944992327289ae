"""With the stores on S3, executors need no claim: they read and write S3 with the keys of the Secret."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctbasis.svd.factors import FactorStore
from tests.e2e.kfp_namespace import small_package
from tests.e2e.test_pipeline_on_kubernetes import (
    ARGUMENTS,
    PRODUCT,
    SINGULAR_VALUES,
    outputs,
    pixels,
    product,
    reference,
)

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.kfp_namespace import RunNamespace
    from tests.e2e.test_pipeline_on_kubernetes import Reference

__all__ = ["reference"]

pytestmark = pytest.mark.e2e


def test_executors_without_the_claim_of_the_run_factor_a_matrix_on_s3(
    runs: RunNamespace, ct: Path, reference: Reference, tmp_path: Path
) -> None:
    runs.change_template()
    store = f"s3://{runs.name}/scratch"
    run = runs.run(small_package(), source=runs.upload(ct), engine="mahout", store=store, **ARGUMENTS).succeed()
    (application,) = (one["spec"] for one in runs.applications() if one["metadata"]["name"].endswith(run.run_id))
    assert _argument(application, "--matrix") == f"{store}/{run.run_id}/matrix.zarr"
    assert _argument(application, "--factors") == f"{store}/{run.run_id}/factors.zarr"
    for role in ("driver", "executor"):
        secrets = {entry["name"]: entry["valueFrom"] for entry in application[role]["env"] if "valueFrom" in entry}
        assert secrets["AWS_SECRET_ACCESS_KEY"]["secretKeyRef"]["name"] == "ctbasis-s3"
        assert not [mount for mount in application[role].get("volumeMounts", []) if "workspace" in mount["mountPath"]]
    assert "persistentVolumeClaim" not in json.dumps(application)
    assert runs.keys("scratch") == [], "cleanup leaves nothing"
    here, there = reference("mahout"), outputs(runs, run, tmp_path)
    one, other = FactorStore.open(str(here / "basis")), FactorStore.open(str(there / "basis"))
    assert np.allclose(one.s, other.s, rtol=SINGULAR_VALUES, atol=0)
    first, second = product(one), product(other)
    assert np.linalg.norm(first - second) <= PRODUCT * np.linalg.norm(first)
    assert np.abs(pixels(here / "denoised").astype(int) - pixels(there / "denoised")).max() <= 1, "HU, by rounding"


def _argument(application: dict[str, Any], option: str) -> str:
    given: list[str] = application["arguments"]
    return given[given.index(option) + 1]
