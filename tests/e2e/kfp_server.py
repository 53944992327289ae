"""A Kubeflow server for the CronJobs of the manifests: the stand-in of tests/kubeflow, in a pod of the steps' image.

Its runs start no pods, and go on until they are terminated.
"""

from __future__ import annotations

from tests.e2e.cluster import CHECKOUT, STEPS_IMAGE, hardened, patient_probe, pod, ready
from tests.e2e.object_store import apply

NAME, PORT = "ml-pipeline", 8888
URL = f"http://{NAME}:{PORT}"
SOURCES = "kfp-stand-in"

PROGRAM = f"""
import sys, threading
sys.path.append("/stand-in")
from tests.kubeflow.kfp_stand_in import KfpStandIn
KfpStandIn.address = ("", {PORT})
with KfpStandIn(stuck=True):
    threading.Event().wait()
"""


def start_server(namespace: str) -> None:
    """Start the server, and a Service of the name that Kubeflow's server has."""
    tests = CHECKOUT / "tests"
    files = [tests / "loopback.py", tests / "kubeflow" / "ml_metadata_wire.py", *(tests / "kubeflow").glob("kfp_*.py")]
    sources = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": SOURCES}}
    items = [{"key": path.name, "path": str(path.relative_to(CHECKOUT))} for path in files]
    container = hardened(
        STEPS_IMAGE,
        name=NAME,
        command=["python3", "-c", PROGRAM],
        volumeMounts=[{"name": SOURCES, "mountPath": "/stand-in"}],
        readinessProbe=patient_probe(httpGet={"path": "/apis/v2beta1/healthz", "port": PORT}),
    )
    volumes = [{"name": SOURCES, "configMap": {"name": SOURCES, "items": items}}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME},
        "spec": {"selector": {"app": NAME}, "ports": [{"port": PORT}]},
    }
    given = sources | {"data": {path.name: path.read_text() for path in files}}
    apply(namespace, given, pod(NAME, container, labels={"app": NAME}, volumes=volumes), service)
    ready(namespace, NAME)
