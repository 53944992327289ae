"""Whose the application is: it goes when the run goes, also where the step can no longer delete it.

A step that is told to stop deletes its application, but it may get no time for that: KFP's launcher minds no signal and
takes its container along. What then removes the application is the garbage collector, once the run is deleted.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from ctbasis.spark.kubernetes.outage import say, through_outages

if TYPE_CHECKING:
    from ctbasis.spark.kubernetes.api_server import ApiServer
    from ctbasis.spark.kubernetes.patience import Patience

POD_NAME = "KFP_POD_NAME"
"""The environment variable by which KFP tells a step its pod."""


def owner_of_the_run(server: ApiServer, patience: Patience) -> dict[str, Any] | None:
    """Return a reference to what owns this step's pod, which is the run's Workflow; None outside of a run.

    The pod itself must not be the owner: the application outlives it, to be adopted by the next try.
    """
    name = os.environ.get(POD_NAME)
    if not name:
        return None
    pod = through_outages(lambda: server.find(f"{server.pods}/{name}"), f"reading the step's pod {name}", patience)
    owners = (pod or {"metadata": {}})["metadata"].get("ownerReferences", [])
    for owner in sorted(owners, key=lambda owner: not owner.get("controller")):
        say(f"svd: the application belongs to {owner['kind']} {owner['name']} and goes with it")
        # No controller: the operator is the application's. Nor does it hold back the run's deletion.
        return {key: owner[key] for key in ("apiVersion", "kind", "name", "uid")}
    return None
