"""What a compiled package needs of a cluster."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Self

import yaml

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.lint import quantity
from ctbasis.kubeflow.sizes import FIELDS, Resources

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Request:
    """Requested amounts.

    Attributes:
        cpu: CPUs.
        memory: Bytes.
    """

    cpu: Decimal
    memory: Decimal

    @classmethod
    def of(cls, cpu: object, memory: object) -> Self:
        """Return the request of two quantities; what is no quantity counts as nothing."""
        return cls(quantity(str(cpu)) or Decimal(0), quantity(str(memory)) or Decimal(0))

    def fits(self, other: Request) -> bool:
        """Return whether `other` has as much of both."""
        return self.cpu <= other.cpu and self.memory <= other.memory

    def __str__(self) -> str:
        return f"{self.cpu.normalize():f} CPU and {float(self.memory) / 2**30:.3g} GiB"


@dataclass(frozen=True)
class Needs:
    """What a package needs.

    Attributes:
        account: The service account that executes the runs.
        requests: The requests of each step's pod; of `svd`, those of the Spark driver and of each executor.
        access_mode: The access mode of the workspace's claim.
        storage_class: Its class; empty for the default class of the cluster.
        secrets: Names of Secrets, and whether a pod starts without it.
        pull_secrets: Names of Secrets by which the images of the steps are pulled.
        images: The images of the steps.
    """

    account: str
    requests: Mapping[str, Request]
    access_mode: str
    storage_class: str
    secrets: Mapping[str, bool]
    pull_secrets: tuple[str, ...]
    images: tuple[str, ...]

    @classmethod
    def of(cls, package: Path, account: str) -> Self:
        """Return the needs of a package, whose runs `account` executes.

        Raises:
            CtbasisError: It is the package of another pipeline, or it was compiled by another kfp.
        """
        pipeline, *rest = yaml.safe_load_all(package.read_text(encoding="utf-8"))
        try:
            executors: dict[str, Any] = pipeline["deploymentSpec"]["executors"]
            kubernetes = rest[0]["platforms"]["kubernetes"]
            claim = kubernetes["pipelineConfig"]["workspace"]["kubernetes"]["pvcSpecPatch"]
            containers = {label.removeprefix("exec-"): one["container"] for label, one in executors.items()}
            requests = {step: _request(one["resources"]) for step, one in containers.items()}
            images = tuple(sorted({one["image"] for one in containers.values()}))
            settings = list(kubernetes["deploymentSpec"]["executors"].values())
        except (KeyError, IndexError) as error:
            raise CtbasisError(
                f"{package.name} has no {error.args[0]!r}" if isinstance(error, KeyError) else f"{package.name} is cut",
                expected="a package that `ctbasis compile` wrote",
                cause="it is the package of another pipeline, or another kfp compiled it",
                remedy="run `ctbasis compile --out FILE`",
            ) from error
        environment = [secret for one in settings for secret in one.get("secretAsEnv", [])]
        pulls = {secret["secretName"] for one in settings for secret in one.get("imagePullSecret", [])}
        return cls(
            account=account,
            requests=requests,
            access_mode=next(iter(claim.get("accessModes", [])), "ReadWriteOnce"),
            storage_class=claim.get("storageClassName", ""),
            secrets={secret["secretName"]: bool(secret.get("optional")) for secret in environment},
            pull_secrets=tuple(sorted(pulls)),
            images=images,
        )


def _request(fields: Mapping[str, str]) -> Request:
    own = Resources(**{name: fields.get(field, "0") for name, field in FIELDS.items()})
    return Request.of(own.cpu, own.memory)
