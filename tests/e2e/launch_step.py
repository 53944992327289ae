"""The svd step's launching half as a process of its own, so that a test can stop or kill it as a cluster would.

launch_step.py '{"run": ..., "arguments": [...], "placement": {...}, "image": ...}'
"""

from __future__ import annotations

import json
import sys

from components.errors import refusing
from components.svd import launch_kubernetes
from components.svd.application import SparkApplication
from components.svd.launch import application_name
from components.svd.placement import Placement

if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    template = SparkApplication.read().to_manifest()
    template["spec"] |= asked["spec"]
    for role in ("driver", "executor"):
        template["spec"][role] |= asked["pod"]
    application = SparkApplication.from_manifest(template)
    application = application.for_run(name=application_name(asked["run"]), arguments=asked["arguments"])
    with refusing():
        launch_kubernetes.launch(application.placed(Placement(**asked["placement"])))
