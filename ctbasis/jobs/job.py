"""A job: a custom resource from which an operator makes the pods of one computation.

Each kind of job is one subclass in a module of its own. It says where the operator keeps the state, which pods belong
to the job, and how a run's arguments, labels and placement get into the manifest. All else, such as watches, logs,
quotas, outages and deletions, is the same for all kinds, and stands in the other modules of this room.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from enum import Enum
from typing import TYPE_CHECKING, Any, ClassVar, Self

import yaml

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from ctbasis.jobs.placement import Placement

TEMPLATE_NAME = "ctbasis-svd"
"""Name of the template of each kind in the namespace of the runs."""

RUN_LABEL = "ctbasis/run"

SPEC_ANNOTATION = "ctbasis/spec"
"""Annotation with a digest of the specification that was requested; the cluster adds fields to it."""


QUEUE_ANNOTATION = "ctbasis/queue"
"""Annotation of a template that names the queue of Kueue for the jobs of the runs. A template must not have Kueue's
label itself: Kueue would take the template for a job that waits, and start it."""

KUEUE_LABEL = "kueue.x-k8s.io/queue-name"


class Phase(Enum):
    """What a state of an operator means for the step that follows the job.

    Attributes:
        ACTIVE: The job waits or runs.
        FAILING: An attempt has failed, and the operator may start another.
        SUCCEEDED: The job has succeeded.
        FAILED: The job has failed, and the operator does nothing more.
    """

    ACTIVE = "active"
    FAILING = "failing"
    SUCCEEDED = "succeeded"
    FAILED = "failed"

    @property
    def final(self) -> bool:
        """Whether the job has ended."""
        return self in {Phase.SUCCEEDED, Phase.FAILED}


class Job(ABC):
    """The manifest of a job, and what is known of its kind.

    Attributes:
        kind: Kind of the custom resource.
        title: The kind in messages, such as `spark application`.
        group: API group.
        version: API version.
        plural: Name of the collection in the API.
        operator: The operator in messages.
        install: The command that installs the operator.
        template: The manifest of this installation.
        image_field: Where the manifest names the image, for messages.
        pods_label: Label of the job's pods; its value is the name of the job.
        driver_container: Container of the driver pod; empty for the first.
        roles: Roles of all pods, that of the driver first.
        many: The role of which a job has several pods.
        longest_name: Characters of a name. Operators append to it, and a label or host name has at most 63.
        strict: Whether the API server is asked to refuse unknown fields, because no model of the manifest does.
        checks_driver: Whether a success counts only if the driver pod has succeeded too.
        replaces_driver: Whether the operator notices that the driver pod was deleted.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    group: ClassVar[str]
    version: ClassVar[str]
    plural: ClassVar[str]
    operator: ClassVar[str]
    install: ClassVar[str]
    template: ClassVar[Path]
    image_field: ClassVar[str]
    pods_label: ClassVar[str] = RUN_LABEL
    driver_container: ClassVar[str] = ""
    roles: ClassVar[tuple[str, ...]]
    many: ClassVar[str]
    longest_name: ClassVar[int]
    strict: ClassVar[bool] = True
    checks_driver: ClassVar[bool] = False
    replaces_driver: ClassVar[bool] = True

    # ---- the kind: what its operator writes

    @staticmethod
    @abstractmethod
    def state(raw: Mapping[str, Any]) -> str:
        """Return the state of a job in the operator's words; empty until the operator processes it."""

    @classmethod
    @abstractmethod
    def phase(cls, raw: Mapping[str, Any]) -> Phase:
        """Return what the state of a job means."""

    @staticmethod
    @abstractmethod
    def message(raw: Mapping[str, Any]) -> str:
        """Return the operator's message on the state of a job; empty if there is none."""

    @staticmethod
    def output(raw: Mapping[str, Any]) -> list[str]:  # noqa: ARG004 - an operator may keep no output
        """Return last lines of the driver program's log that the operator keeps in the status of the job."""
        return []

    @staticmethod
    def attempt(raw: Mapping[str, Any]) -> str:  # noqa: ARG004 - an operator may have no attempts
        """Return what distinguishes an attempt of the operator from the one before."""
        return ""

    @staticmethod
    @abstractmethod
    def role(labels: Mapping[str, str]) -> str:
        """Return the role of a pod of the job by its labels; empty for another pod."""

    @staticmethod
    @abstractmethod
    def arguments(raw: Mapping[str, Any]) -> Any:
        """Return the part of a manifest that holds the arguments of the driver program."""

    @classmethod
    def driver_role(cls) -> str:
        """Return the role of the pod whose log is that of the driver program."""
        return cls.roles[0]

    @classmethod
    def collection(cls, namespace: str) -> str:
        """Return the path of the jobs of a namespace in the API."""
        return f"/apis/{cls.group}/{cls.version}/namespaces/{namespace}/{cls.plural}"

    @staticmethod
    def is_template(raw: Mapping[str, Any]) -> bool:
        """Return whether a job of the namespace is a template: it is suspended, and its operator never starts it."""
        return bool(raw["spec"].get("suspend"))

    @classmethod
    def without_cluster_fields(cls, raw: Mapping[str, Any]) -> dict[str, Any]:
        """Return the manifest of a template without `suspend` and without the fields that the cluster has added.

        Annotations are removed too: they name the tool that manages the template (kubectl, Argo CD, Helm), which must
        not mistake the job of a run for its own. `QUEUE_ANNOTATION` becomes the label of Kueue.
        """
        labels = dict(raw["metadata"].get("labels") or {})
        queue = (raw["metadata"].get("annotations") or {}).get(QUEUE_ANNOTATION)
        if queue:
            labels[KUEUE_LABEL] = queue
        return {
            "apiVersion": raw["apiVersion"],
            "kind": raw["kind"],
            "metadata": {"name": raw["metadata"]["name"], "labels": labels},
            "spec": {key: value for key, value in raw["spec"].items() if key != "suspend"},
        }

    # ---- one manifest

    @classmethod
    @abstractmethod
    def from_manifest(cls, manifest: Mapping[str, Any], *, where: str = "manifest") -> Self:
        """Check a manifest, and refuse fields that the operator would ignore silently.

        Args:
            manifest: The manifest as plain data.
            where: Its place for messages, such as a path.

        Raises:
            CtbasisError: The kind is wrong, or a field is missing, unknown or has the wrong type.
        """

    @abstractmethod
    def to_manifest(self) -> dict[str, Any]:
        """Return the manifest as plain data, as `kubectl apply` reads it; the caller may change it."""

    @abstractmethod
    def with_arguments(self, arguments: Sequence[str]) -> Self:
        """Return this job with the command line `arguments` of the driver program."""

    @abstractmethod
    def placed(self, placement: Placement) -> Self:
        """Return this job with `placement` added to its pods.

        Environment variables, node labels and affinities of the placement replace those of the same name. A path that
        the job mounts itself stays as it is: the placement's mount of that path is left out, and its volume if no other
        mount needs it.

        Raises:
            CtbasisError: Two different volumes have the same name.
        """

    @classmethod
    def read(cls, path: Path | None = None) -> Self:
        """Read a manifest from a YAML file, by default that of this installation.

        Raises:
            CtbasisError: The file is missing or has another kind, or a field is unknown or has the wrong type.
        """
        path = path or cls.template
        try:
            manifest = yaml.safe_load(path.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise CtbasisError(f"{path} cannot be read as YAML ({error})", expected=f"a {cls.kind} manifest") from error
        return cls.from_manifest(manifest, where=str(path))

    def for_run(self, *, name: str, arguments: Sequence[str] | None = None) -> Self:
        """Return this job with the name `name` and the label of its run.

        Args:
            name: metadata.name.
            arguments: The command line of the driver program; None for that of this job.
        """
        manifest = self.to_manifest()
        manifest["metadata"] = {
            **manifest["metadata"],
            "name": name,
            "labels": {**manifest["metadata"].get("labels", {}), RUN_LABEL: name},
        }
        named = type(self).from_manifest(manifest)
        return named if arguments is None else named.with_arguments(arguments)

    def with_spec_digest(self) -> Self:
        """Return this job with an annotation, by which a retry adopts it only if its specification is the same.

        Without the annotation a retry compares the arguments alone.
        """
        manifest = self.to_manifest()
        digest = hashlib.sha256(json.dumps(manifest["spec"], sort_keys=True).encode()).hexdigest()
        annotations = {**manifest["metadata"].get("annotations", {}), SPEC_ANNOTATION: digest}
        manifest["metadata"] = {**manifest["metadata"], "annotations": annotations}
        return type(self).from_manifest(manifest)

    def owned_by(self, owner: Mapping[str, Any]) -> Self:
        """Return this job with an owner reference, by which Kubernetes deletes it together with its owner."""
        manifest = self.to_manifest()
        manifest["metadata"]["ownerReferences"] = [dict(owner)]
        return type(self).from_manifest(manifest)

    @property
    def name(self) -> str:
        """metadata.name."""
        return str(self.to_manifest()["metadata"]["name"])
