"""The deploy step: the basis of a run becomes the one that a served model of the cluster denoises with.

It runs after all others, if the run names a served model. The basis is registered first, if there is a registry, so
that nothing is served that is not registered. The step can be repeated: what is done already is left as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError
from ctbasis.jobs.api_server import ApiServer
from ctbasis.jobs.served_model import POLL_SECONDS, ServedModel
from ctbasis.jobs.timeouts import Timeouts
from ctbasis.parsing import parse_served
from ctbasis.printable import say
from ctbasis.steps.model_registry import register

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ctbasis.parameters import DeployPlan

SCHEMES = ("minio://", "s3://")
"""How Kubeflow begins the URI of an artifact on an S3 store. minio:// is its own word, which nobody else reads."""

PATCH = "patch"


def run_step(
    plan: DeployPlan,
    uri: str,
    metadata: Mapping[str, str],
    *,
    run: str,
    server: ApiServer | None = None,
    timeouts: Timeouts | None = None,
    poll: float = POLL_SECONDS,
) -> str:
    """Let a served model serve a basis, and wait until it does.

    Args:
        plan: Which served model, and which registry.
        uri: URI of the artifact of the basis.
        metadata: Metadata of that artifact, see `ctbasis.steps.basis_metadata`.
        run: Id of the run.
        server: API server; by default that of this pod's cluster, or of KUBECONFIG.
        timeouts: How long the API server may be unavailable.
        poll: Seconds between two looks at a rollout.

    Returns:
        The URI that the model serves.

    Raises:
        CtbasisError: The basis is none that can be served, or a server refuses.
    """
    served = parse_served(plan.deploy)
    if served is None:
        raise CtbasisError("deploy is empty", expected="the served model that gets the basis")
    if metadata.get("kind") != PATCH:
        raise CtbasisError(
            f"the basis was made in {metadata.get('kind') or 'global'} mode",
            expected="a basis of patch mode: a served model denoises volumes by patches",
            cause="the run has the parameter mode=global",
            remedy="run again with mode=patch, or with an empty deploy",
        )
    where = readable_uri(uri)
    model = ServedModel(*served, server or ApiServer.connect(), timeouts or Timeouts())
    # Before anything is registered: a model that does not exist, or that may not be read, ends the step here.
    before = model.read().uri
    if plan.registry:
        register(plan.registry, model.name, where, run=run, metadata=metadata)
    if model.serve(where):
        say(f"deploy: {model} served {before or 'the basis of its ConfigMap'}; now {where}")
    else:
        say(f"deploy: {model} serves {where} already")
    if model.wait_until_served(poll=poll):
        say(f"deploy: all pods of {model} serve it")
    else:
        say(f"deploy: KServe rolls it out; `kubectl -n {model.server.namespace} get {model}` shows how far it is")
    return where


def readable_uri(uri: str) -> str:
    """Return the URI of an artifact as every S3 client reads it.

    >>> readable_uri("minio://mlpipeline/v2/artifacts/run/basis?endpoint=seaweedfs:9000")
    's3://mlpipeline/v2/artifacts/run/basis'

    Raises:
        CtbasisError: The artifact is not on an S3 store.
    """
    # Kubeflow appends the settings of a store as a query; the served model has its own, in a Secret.
    place = uri.partition("?")[0]
    for scheme in SCHEMES:
        if place.startswith(scheme):
            return f"s3://{place.removeprefix(scheme)}"
    raise CtbasisError(
        f"the artifact of the basis is at {place[:200]}",
        expected="an artifact on an S3 store, minio:// or s3://",
        cause="the run is on a machine without Kubeflow, or the pipeline root is on another kind of store",
        remedy="copy the basis to the store of the served model, and set it there (docs/how-to/serving.md)",
    )
