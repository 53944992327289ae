"""The RayJob (ray.io/v1) of KubeRay: a Ray cluster for one job, and the pod that submits the driver program to it.

The program runs on the head. Its log comes through the submitter, which follows it; that pod is therefore the driver
pod here.
"""

from __future__ import annotations

import base64
import copy
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from ctbasis.errors import CtbasisError
from ctbasis.installed import LAYOUT
from ctbasis.jobs.job import RUN_LABEL, Phase
from ctbasis.jobs.plain_job import PlainJob
from ctbasis.jobs.pod_template import place

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ctbasis.jobs.placement import Placement

PROGRAM = "python3 -m ctbasis.spark.driver"

OUTPUT = ", last available logs"
"""What comes after this in status.message is the end of the program's log."""

LONGEST_MESSAGE = 800


@dataclass(frozen=True)
class RayJob(PlainJob):
    """A RayJob with a cluster of its own."""

    kind = "RayJob"
    title = "ray job"
    group = "ray.io"
    version = "v1"
    plural = "rayjobs"
    operator = "KubeRay operator"
    install = (
        "helm install kuberay-operator kuberay-operator --repo https://ray-project.github.io/kuberay-helm "
        "--version 1.5.0 -n kuberay --create-namespace"
    )
    template = LAYOUT.manifests / "rayjob.yaml"
    image_field = "the images of head, workers and submitter"
    roles = ("submitter", "head", "worker")
    many = "worker"
    longest_name = 47  # KubeRay's own limit

    @staticmethod
    def state(raw: Mapping[str, Any]) -> str:
        """Return status.jobDeploymentStatus, that of the cluster, and status.jobStatus, that of the program."""
        status = raw.get("status") or {}
        return " ".join(filter(None, (status.get("jobDeploymentStatus"), status.get("jobStatus"))))

    @classmethod
    def phase(cls, raw: Mapping[str, Any]) -> Phase:
        """Return what the state means. A job that is suspended, as by Kueue, waits."""
        status = raw.get("status") or {}
        deployment = status.get("jobDeploymentStatus")
        if deployment == "Complete":
            # STOPPED is the other state in which a job is complete.
            return Phase.SUCCEEDED if status.get("jobStatus") == "SUCCEEDED" else Phase.FAILED
        phases = {"Retrying": Phase.FAILING, "Failed": Phase.FAILED, "ValidationFailed": Phase.FAILED}
        return phases.get(str(deployment), Phase.ACTIVE)

    @staticmethod
    def message(raw: Mapping[str, Any]) -> str:
        """Return status.reason and status.message, without the log of the program."""
        status = raw.get("status") or {}
        text = str(status.get("message") or "").partition(OUTPUT)[0].strip()
        return ": ".join(filter(None, (status.get("reason"), text)))[:LONGEST_MESSAGE]

    @staticmethod
    def output(raw: Mapping[str, Any]) -> list[str]:
        """Return the last lines of the program's log in status.message."""
        return str((raw.get("status") or {}).get("message") or "").partition(OUTPUT)[2].splitlines()[1:]

    @staticmethod
    def attempt(raw: Mapping[str, Any]) -> str:
        """Return the id of the latest submission."""
        return str((raw.get("status") or {}).get("jobId") or "")

    @staticmethod
    def role(labels: Mapping[str, str]) -> str:
        """Return `head` or `worker`, as KubeRay labels them, or `submitter` for the pod of the batch Job."""
        return labels.get("ray.io/node-type") or ("submitter" if "job-name" in labels else "")

    @staticmethod
    def arguments(raw: Mapping[str, Any]) -> Any:
        """Return spec.entrypoint."""
        return raw["spec"].get("entrypoint")

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any], *, where: str = "manifest") -> Self:
        """Check kind, version and the parts that the step changes; see `Job.from_manifest`.

        The API server refuses unknown fields when the job is created, and `ctbasis lint` names them before.
        """
        cls.require_kind(manifest, where)
        try:
            pods = [pod["spec"]["containers"][0]["image"] for pod in _pods(manifest["spec"])]
        except (KeyError, IndexError, TypeError) as error:
            raise CtbasisError(
                f"{where} lacks {error}",
                expected="spec.submitterPodTemplate, and spec.rayClusterSpec with a head and a group of workers, each "
                "with a container and its image",
            ) from error
        if len(pods) < len(cls.roles):
            raise CtbasisError(f"{where} has no group of workers", expected="spec.rayClusterSpec.workerGroupSpecs")
        return cls(copy.deepcopy(manifest))

    def for_run(self, *, name: str, arguments: Sequence[str] | None = None) -> Self:
        """Return this job with the name `name`, and with the label of its run on it and on all its pods."""
        manifest = super().for_run(name=name, arguments=arguments).to_manifest()
        for pod in _pods(manifest["spec"]):
            metadata = pod.setdefault("metadata", {})
            metadata["labels"] = {**metadata.get("labels", {}), RUN_LABEL: name}
        return type(self)(manifest)

    def with_arguments(self, arguments: Sequence[str]) -> Self:
        """Return this job with another spec.entrypoint.

        Shells of the submitter and of the head read the entrypoint, and each would replace `$` and quotes in a plan.
        The arguments are therefore encoded.
        """
        manifest = self.to_manifest()
        encoded = base64.urlsafe_b64encode(json.dumps(list(arguments)).encode()).decode()
        manifest["spec"]["entrypoint"] = f"{PROGRAM} --encoded {encoded}"
        return type(self)(manifest)

    def placed(self, placement: Placement) -> Self:
        """Return this job with `placement` in the pods of head and workers; the submitter gets the node placement."""
        manifest = self.to_manifest()
        submitter, *others = _pods(manifest["spec"])
        submitter["spec"] = place(submitter["spec"], placement, computes=False)
        for pod in others:
            pod["spec"] = place(pod["spec"], placement)
        return type(self)(manifest)


def _pods(spec: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the pod templates: of the submitter, of the head, and of each group of workers."""
    cluster = spec["rayClusterSpec"]
    groups = [group["template"] for group in cluster.get("workerGroupSpecs") or []]
    return [spec["submitterPodTemplate"], cluster["headGroupSpec"]["template"], *groups]
