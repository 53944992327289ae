"""Fixtures: a namespace for tests of the svd step, a namespace for pipeline runs, and a CT series."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ctbasis.simulate.phantom import write_chest
from tests.e2e.cluster import new_namespace, require_argo
from tests.e2e.kfp_namespace import RunNamespace
from tests.e2e.object_store import object_store
from tests.e2e.step_namespace import StepNamespace

if TYPE_CHECKING:
    from collections.abc import Iterator

PHANTOM = {"slices": 128, "rows": 256, "columns": 256, "seed": 3}
"""Arguments of the phantom. Its matrix has two row blocks, one for each executor."""


@pytest.fixture(scope="session")
def namespace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StepNamespace]:
    """Return a namespace with the base manifests, a claim and a matrix on it; it is deleted at the end."""
    with new_namespace() as name:
        made = StepNamespace.create(name, tmp_path_factory.mktemp("cluster"))
        made.write_matrix()
        yield made


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunNamespace]:
    """Return a namespace in which the compiled package can be run; it is deleted at the end."""
    require_argo()
    with new_namespace() as name:
        made = RunNamespace.create(name, object_store(name), tmp_path_factory.mktemp("runs"))
        yield made
        made.empty_bucket()


@pytest.fixture(scope="session")
def ct(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder with the CT series of the pipeline tests: CTBASIS_E2E_SERIES, or else a chest phantom."""
    given = os.environ.get("CTBASIS_E2E_SERIES")
    if given:
        assert Path(given).is_dir(), f"CTBASIS_E2E_SERIES is {given}; expected a folder with one DICOM series"
        sys.stderr.write("e2e: the series is the one of CTBASIS_E2E_SERIES\n")
        return Path(given)
    sys.stderr.write(f"e2e: the series is a phantom, {PHANTOM}; CTBASIS_E2E_SERIES names a folder with a real one\n")
    folder = tmp_path_factory.mktemp("phantom")
    write_chest(folder, **PHANTOM)
    return folder
