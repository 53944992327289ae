"""A cluster for the tests of `ctbasis lint --cluster`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.kubeflow.cluster_lint.cluster_stand_in import ClusterStandIn, ready

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def cluster() -> Iterator[ClusterStandIn]:
    """Return a cluster that has everything."""
    with ClusterStandIn() as stand_in:
        ready(stand_in)
        yield stand_in
