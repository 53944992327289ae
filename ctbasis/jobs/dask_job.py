"""The DaskJob (kubernetes.dask.org/v1) of Dask's operator: a Dask cluster for one job, and the pod of its program.

A DaskJob cannot be suspended. The template in a namespace therefore carries the annotation by which the operator knows
that it has handled an object already, so that it never starts the template.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ctbasis.errors import CtbasisError
from ctbasis.installed import LAYOUT
from ctbasis.jobs.job import Phase
from ctbasis.jobs.plain_job import PlainJob
from ctbasis.jobs.pod_template import place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctbasis.jobs.placement import Placement

CLUSTER_LABEL = "dask.org/cluster-name"

HANDLED = "kopf.zalando.org/last-handled-configuration"
"""Annotation in which the operator keeps the configuration that it handled last."""

WORKERS = "CTBASIS_WORKERS"
"""Environment variable that tells the program how many workers start together with it."""

ROLES = {"job-runner": "runner", "scheduler": "scheduler", "worker": "worker"}
"""Roles by the label of the operator."""


@dataclass(frozen=True)
class DaskJob(PlainJob):
    """A DaskJob with a cluster of its own."""

    kind = "DaskJob"
    title = "dask job"
    group = "kubernetes.dask.org"
    version = "v1"
    plural = "daskjobs"
    operator = "Dask operator"
    install = (
        "helm install dask-operator dask-kubernetes-operator --repo https://helm.dask.org --version 2026.3.0 "
        "-n dask-operator --create-namespace"
    )
    template = LAYOUT.manifests / "daskjob.yaml"
    image_field = "the images of runner, scheduler and workers"
    roles = ("runner", "scheduler", "worker")
    many = "worker"
    longest_name = 53  # the operator's own limit
    # The operator follows the phase of the runner, and does not see that the pod was deleted.
    replaces_driver = False

    @staticmethod
    def state(raw: Mapping[str, Any]) -> str:
        """Return status.jobStatus."""
        return str((raw.get("status") or {}).get("jobStatus") or "")

    @classmethod
    def phase(cls, raw: Mapping[str, Any]) -> Phase:
        """Return what the state means. The operator takes it from the phase of the runner, and retries nothing."""
        return {"Successful": Phase.SUCCEEDED, "Failed": Phase.FAILED}.get(cls.state(raw), Phase.ACTIVE)

    @staticmethod
    def message(raw: Mapping[str, Any]) -> str:  # noqa: ARG004 - the signature of all kinds
        """Return nothing: the operator gives no message. The reason is in the pod and the log of the runner."""
        return ""

    @staticmethod
    def role(labels: Mapping[str, str]) -> str:
        """Return `runner`, `scheduler` or `worker`."""
        return ROLES.get(labels.get("dask.org/component", ""), "")

    @staticmethod
    def arguments(raw: Mapping[str, Any]) -> Any:
        """Return the arguments of the runner."""
        return raw["spec"]["job"]["spec"]["containers"][0].get("args")

    @staticmethod
    def is_template(raw: Mapping[str, Any]) -> bool:
        """Return whether the operator was told to leave the job alone."""
        return HANDLED in (raw["metadata"].get("annotations") or {})

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any], *, where: str = "manifest") -> Self:
        """Check kind, version and the parts that the step changes; see `Job.from_manifest`.

        The API server refuses unknown fields when the job is created, and `ctbasis lint` names them before.
        """
        cls.require_kind(manifest, where)
        try:
            for pod in _pods(manifest["spec"]):
                pod["spec"]["containers"][0]["image"]
            int(manifest["spec"]["cluster"]["spec"]["worker"]["replicas"])
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise CtbasisError(
                f"{where} lacks {error}",
                expected="spec.job, and spec.cluster with a scheduler and workers, each with a container and its image",
            ) from error
        return cls(copy.deepcopy(manifest))

    def for_run(self, *, name: str, arguments: Sequence[str] | None = None) -> Self:
        """Return this job with the name `name`, the label of its run, and a Service that selects its own scheduler.

        The operator copies the labels of a job to all its pods.
        """
        manifest = super().for_run(name=name, arguments=arguments).to_manifest()
        service = manifest["spec"]["cluster"]["spec"]["scheduler"]["service"]
        service["selector"] = {**service.get("selector", {}), CLUSTER_LABEL: name}
        workers = int(manifest["spec"]["cluster"]["spec"]["worker"]["replicas"])
        runner = manifest["spec"]["job"]["spec"]["containers"][0]
        kept = [entry for entry in runner.get("env", []) if entry["name"] != WORKERS]
        runner["env"] = [*kept, {"name": WORKERS, "value": str(workers)}]
        return type(self)(manifest)

    def with_arguments(self, arguments: Sequence[str]) -> Self:
        """Return this job with other arguments of the runner."""
        manifest = self.to_manifest()
        # Kubernetes replaces $(NAME) in arguments by a variable, and $$(NAME) by $(NAME).
        manifest["spec"]["job"]["spec"]["containers"][0]["args"] = [text.replace("$(", "$$(") for text in arguments]
        return type(self)(manifest)

    def placed(self, placement: Placement) -> Self:
        """Return this job with `placement` in the pods of runner and workers; the scheduler gets the node placement."""
        manifest = self.to_manifest()
        runner, scheduler, worker = _pods(manifest["spec"])
        scheduler["spec"] = place(scheduler["spec"], placement, computes=False)
        for pod in (runner, worker):
            pod["spec"] = place(pod["spec"], placement)
        return type(self)(manifest)


def _pods(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what holds the pod specs of runner, scheduler and workers."""
    cluster = spec["cluster"]["spec"]
    return [spec["job"], cluster["scheduler"], cluster["worker"]]
