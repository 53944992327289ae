"""The pods of an application run on the node of their step if only one node mounts the workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.jobs.node import beside_this_pod
from ctbasis.jobs.placement import Placement
from ctbasis.jobs.pod import ONE_NODE, POD_NAME
from ctbasis.jobs.spark_application import SparkApplication
from tests.jobs.api_server_stand_in import PODS

if TYPE_CHECKING:
    from ctbasis.jobs.timeouts import Timeouts
    from tests.jobs.api_server_stand_in import ApiServerStandIn


@pytest.fixture(autouse=True)
def _step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(POD_NAME, "step")
    monkeypatch.setenv(ONE_NODE, "true")


def test_driver_and_executors_are_placed_on_the_node_of_the_step(server: ApiServerStandIn, timeouts: Timeouts) -> None:
    server.put(PODS, {"metadata": {"name": "step"}, "spec": {"nodeName": "node7"}})
    placement = beside_this_pod(Placement(), server=server.api_server(), timeouts=timeouts)
    assert placement == Placement().on_node("node7")
    spec = SparkApplication.read().placed(placement).to_manifest()["spec"]
    for role in ("driver", "executor"):
        (term,) = spec[role]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
            "nodeSelectorTerms"
        ]
        assert term == {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["node7"]}]}


@pytest.mark.parametrize("variable", [POD_NAME, ONE_NODE])
def test_outside_of_a_run_and_with_a_shared_workspace_nothing_is_asked(
    variable: str, server: ApiServerStandIn, timeouts: Timeouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable)
    placement = Placement()
    assert beside_this_pod(placement, server=server.api_server(), timeouts=timeouts) is placement
    assert server.requests == []


def test_a_step_whose_node_is_unknown_is_refused(server: ApiServerStandIn, timeouts: Timeouts) -> None:
    with pytest.raises(CtbasisError, match="the pod step of this step has no node"):
        beside_this_pod(Placement(), server=server.api_server(), timeouts=timeouts)
