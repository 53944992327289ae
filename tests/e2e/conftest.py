"""Fixtures: a namespace for tests of the svd step, a namespace for pipeline runs, and a CT series."""

from __future__ import annotations

import os
import sys
import time
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


FIRST = (
    "test_pipeline_on_kubernetes",
    "test_spark_on_kubernetes",
    "test_lifecycle",
    "test_manifests",
    "test_images",
    "test_spark_application_component",
    "test_serving",
)
"""Modules whose tests run before those of the others, since `make ci` may not have the time for all."""

UNTIL = "CTBASIS_E2E_UNTIL"
"""Environment variable: seconds of the epoch after which no test is started."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests of the most important modules to the front."""
    order = {name: place for place, name in enumerate(FIRST)}
    here = [item for item in items if item.path.parent == Path(__file__).parent]
    if len(here) == len(items):
        items.sort(key=lambda item: order.get(item.path.stem, len(FIRST)))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test, before its fixtures are made, if the time in which tests may start is over."""
    until = os.environ.get(UNTIL)
    if until and time.time() > float(until):
        pytest.skip(f"NOT RUN: the time for tests on a cluster is over; `make e2e` runs {item.path.stem}")


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
