"""What one cluster needs in the compiled package: its own images, the size of its pods, the claim of the workspace.

The settings are applied to the text of a compiled package, so that `ctbasis submit` can apply them where there is no
source to compile.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from ctbasis.addresses import parse_address
from ctbasis.errors import CtbasisError
from ctbasis.jobs.pod import ONE_NODE
from ctbasis.kubeflow.sizes import SIZES, SPARK_STEP, resize

if TYPE_CHECKING:
    from collections.abc import Mapping

SEPARATOR = "\n---\n"
"""Between the pipeline and the platform document of a package."""

ONCE = "ReadWriteOnce"
"""The access mode of a claim that one node mounts at a time."""

PULL_POLICIES = ("Always", "IfNotPresent", "Never")

OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
MOST_NAME_CHARACTERS = 253
"""A name of a Kubernetes object: a DNS subdomain of RFC 1123."""


@dataclass(frozen=True)
class Claim:
    """The volume claim of a run's workspace. An empty attribute keeps the value of the package.

    Attributes:
        access_mode: ReadWriteOnce or ReadWriteMany.
        storage_class: A StorageClass of the cluster; the package uses the cluster's default.
        size: A quantity such as 20Gi.
    """

    access_mode: str = ""
    storage_class: str = ""
    size: str = ""


@dataclass(frozen=True)
class ClusterSettings:
    """What a cluster needs in the package. An empty attribute keeps the value of the package.

    Attributes:
        steps_image: The image of the steps, with a tag or a digest.
        pull_secrets: Names of Secrets of the runs' namespace by which the kubelet pulls that image.
        pull_policy: One of `PULL_POLICIES`.
        claim: The claim of the workspace.
        size: Resources of all steps, one of `SIZES`.
        requests: Requested amounts of `cpu` and `memory` by step, in place of those of the size or the package.
        docs_url: Address at which the users of the cluster read this documentation; the description of the pipeline
            in the UI ends with it.
        parallelism: Jobs of a cohort at the same time; 0 keeps that of the package.

    Raises:
        CtbasisError: The image is not pinned or no image, a name cannot be that of a Secret, there is no such policy
            or size, or the address is none.
    """

    steps_image: str = ""
    pull_secrets: tuple[str, ...] = ()
    pull_policy: str = ""
    claim: Claim = field(default_factory=Claim)
    size: str = ""
    requests: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    docs_url: str = ""
    parallelism: int = 0

    def __post_init__(self) -> None:
        from ctbasis.kubeflow.lint import images

        if self.steps_image and (message := images.fault(self.steps_image)):
            raise CtbasisError(
                f"the steps' {message}: {self.steps_image!r}",
                expected="such as registry.example.com/ctbasis/steps:0.1.0, or a name with @sha256: and a digest",
                cause="the content of an image without a version or digest may change between two steps of a run",
                remedy=images.REMEDY,
            )
        for name in self.pull_secrets:
            if len(name) > MOST_NAME_CHARACTERS or not OBJECT_NAME.fullmatch(name):
                raise CtbasisError(
                    f"{name[:MOST_NAME_CHARACTERS]!r} cannot be the name of a pull secret",
                    expected="lower-case letters, digits, '-' and '.', as in a name of a Kubernetes Secret",
                    remedy="give the name of the Secret, not its content",
                )
        if self.pull_policy and self.pull_policy not in PULL_POLICIES:
            raise CtbasisError(
                f"{self.pull_policy!r} is not a pull policy", expected=f"one of {', '.join(PULL_POLICIES)}"
            )
        if self.size and self.size not in SIZES:
            raise CtbasisError(f"{self.size!r} is not a size", expected=f"one of {', '.join(SIZES)}")
        if self.docs_url:
            parse_address(
                self.docs_url,
                what="the address of the documentation",
                schemes=("http", "https"),
                example="https://docs.example.org/ctbasis",
            )

    def __bool__(self) -> bool:
        return self != ClusterSettings()

    def applied(self, package: str) -> str:
        """Return the text of a package with these settings; without a setting, the same text.

        Args:
            package: The text of a compiled package of this pipeline: two YAML documents.

        Raises:
            CtbasisError: It is another package, whose steps are not of one image.
        """
        if not self:
            return package
        pipeline_text, separator, platform_text = package.partition(SEPARATOR)
        # The comments at its top, by which kfp describes the pipeline to a reader.
        head = "".join(re.findall(r"^#.*\n", pipeline_text, re.MULTILINE))
        pipeline, platform = yaml.safe_load(pipeline_text), yaml.safe_load(platform_text) if separator else {}
        try:
            executors = pipeline["deploymentSpec"]["executors"]
            kubernetes = platform["platforms"]["kubernetes"]
            if self.steps_image:
                _set_image(executors, self.steps_image)
            for label in executors:
                self._set_pulling(kubernetes["deploymentSpec"]["executors"].setdefault(label, {}))
            self._set_claim(kubernetes["pipelineConfig"]["workspace"])
            if self.claim.access_mode:
                _set_one_node(executors[f"exec-{SPARK_STEP}"]["container"], one=self.claim.access_mode == ONCE)
            resize(executors, self.size, self.requests)
            if self.parallelism:
                _set_parallelism(pipeline, self.parallelism)
            if self.docs_url:
                pipeline["pipelineInfo"]["description"] += f" This installation: {self.docs_url}"
        except KeyError as error:
            raise CtbasisError(
                f"the package has no {error.args[0]!r}",
                expected="a package that `ctbasis compile` wrote",
                cause="it is the package of another pipeline",
                remedy="set the images of that package where it is compiled",
            ) from error
        return head + yaml.safe_dump(pipeline) + SEPARATOR.removeprefix("\n") + yaml.safe_dump(platform)

    def _set_pulling(self, executor: dict[str, Any]) -> None:
        if self.pull_policy:
            executor["imagePullPolicy"] = self.pull_policy
        if self.pull_secrets:
            # kfp-kubernetes writes each name twice, for back ends of two ages.
            executor["imagePullSecret"] = [
                {"secretName": name, "secretNameParameter": {"runtimeValue": {"constant": name}}}
                for name in self.pull_secrets
            ]

    def _set_claim(self, workspace: dict[str, Any]) -> None:
        patch = workspace["kubernetes"]["pvcSpecPatch"]
        if self.claim.access_mode:
            patch["accessModes"] = [self.claim.access_mode]
        if self.claim.storage_class:
            patch["storageClassName"] = self.claim.storage_class
        if self.claim.size:
            workspace["size"] = self.claim.size


def _set_parallelism(pipeline: dict[str, Any], limit: int) -> None:
    """Set how many jobs of a cohort run at the same time.

    Raises:
        CtbasisError: The pipeline has no loop.
    """
    dags = [
        component["dag"] for component in [pipeline["root"], *pipeline["components"].values()] if "dag" in component
    ]
    policies = [task["iteratorPolicy"] for dag in dags for task in dag["tasks"].values() if "iteratorPolicy" in task]
    if not policies:
        raise CtbasisError(
            "a number of jobs at the same time is given, and the package has no loop",
            expected="the pipeline of cohorts",
            remedy="add --pipeline cohort, or leave out --parallelism",
        )
    for policy in policies:
        policy["parallelismLimit"] = limit


def _set_one_node(container: dict[str, Any], *, one: bool) -> None:
    """Tell the Spark step whether its application's pods must run on its own node, where the workspace is mounted."""
    others = [variable for variable in container.pop("env", []) if variable["name"] != ONE_NODE]
    variables = [*others, {"name": ONE_NODE, "value": "true"}] if one else others
    if variables:
        container["env"] = variables


def _set_image(executors: dict[str, Any], image: str) -> None:
    """Replace the image of all steps.

    Raises:
        CtbasisError: The steps have several images, so it is unknown which of them is to be replaced.
    """
    found = sorted({executor["container"]["image"] for executor in executors.values()})
    if len(found) != 1:
        raise CtbasisError(
            f"the package names {len(found)} images: {', '.join(found)}",
            expected="one image for all steps, as in the package of ctbasis",
            cause="it is the package of another pipeline",
            remedy="set the images of that package where it is compiled",
        )
    for executor in executors.values():
        executor["container"]["image"] = image
