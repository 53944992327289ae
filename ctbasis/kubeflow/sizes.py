"""The resources of each step's pod: CPU and memory that it requests, and its limits.

A request that no node can grant leaves a pod Pending for ever, so the requests of the default size fit a node with two
CPUs and 8 GiB. Limits are higher, so that a step uses what its node has to spare.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Self

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SPARK_STEP = "svd"
"""The step whose resources are those of the Spark driver and of each executor, not of the pod that starts them."""


FIELDS = {
    "cpu": "resourceCpuRequest",
    "memory": "resourceMemoryRequest",
    "cpu_limit": "resourceCpuLimit",
    "memory_limit": "resourceMemoryLimit",
}
"""The fields of a container in a compiled package, by the attributes of `Resources`."""


@dataclass(frozen=True)
class Resources:
    """Requests and limits of a pod, as Kubernetes quantities.

    Attributes:
        cpu: Requested CPUs, such as 500m.
        memory: Requested memory, such as 2Gi.
        cpu_limit: The most CPUs; a pod that wants more is slowed down.
        memory_limit: The most memory; a pod that takes more is killed.
    """

    cpu: str
    memory: str
    cpu_limit: str
    memory_limit: str

    def requesting(self, *, cpu: str = "", memory: str = "") -> Self:
        """Return these resources with other requests; a limit that would be below its request is raised to it."""
        from ctbasis.kubeflow.lint import quantity

        changes: dict[str, str] = {}
        for name, amount, limit in (("cpu", cpu, self.cpu_limit), ("memory", memory, self.memory_limit)):
            if amount:
                requested, allowed = quantity(amount), quantity(limit)
                above = requested is not None and allowed is not None and requested > allowed
                changes |= {name: amount} | ({f"{name}_limit": amount} if above else {})
        return replace(self, **changes)

    def to_spec(self) -> dict[str, str]:
        """Return the fields of a container in a compiled package.

        kfp writes the same amounts as numbers besides, for back ends that know no quantities.
        """
        return {field: str(getattr(self, name)) for name, field in FIELDS.items()}

    @classmethod
    def from_spec(cls, fields: Mapping[str, str]) -> Self:
        """Return the resources that a container in a compiled package has.

        Raises:
            KeyError: It lacks one of the four.
        """
        return cls(**{name: fields[field] for name, field in FIELDS.items()})


DEFAULT_SIZE = "medium"

SIZES: dict[str, dict[str, Resources]] = {
    "small": {
        "inventory": Resources("100m", "512Mi", "1", "2Gi"),
        "fetch": Resources("100m", "256Mi", "1", "2Gi"),
        "matrix": Resources("250m", "1Gi", "1", "4Gi"),
        "svd": Resources("250m", "2Gi", "1", "2Gi"),
        "reconstruct": Resources("250m", "1Gi", "1", "4Gi"),
        "report": Resources("250m", "1Gi", "1", "4Gi"),
        "publish": Resources("100m", "512Mi", "1", "2Gi"),
        "summary": Resources("100m", "512Mi", "1", "2Gi"),
        "deploy": Resources("100m", "256Mi", "1", "1Gi"),
        "cleanup": Resources("100m", "256Mi", "1", "1Gi"),
    },
    "medium": {
        "inventory": Resources("500m", "1Gi", "2", "2Gi"),
        "fetch": Resources("500m", "1Gi", "2", "2Gi"),
        "matrix": Resources("1", "2Gi", "2", "4Gi"),
        "svd": Resources("1", "4Gi", "1", "4Gi"),
        "reconstruct": Resources("500m", "2Gi", "2", "4Gi"),
        "report": Resources("500m", "2Gi", "2", "4Gi"),
        "publish": Resources("250m", "1Gi", "2", "2Gi"),
        "summary": Resources("250m", "1Gi", "2", "2Gi"),
        "deploy": Resources("100m", "256Mi", "1", "1Gi"),
        "cleanup": Resources("100m", "256Mi", "1", "1Gi"),
    },
    "large": {
        "inventory": Resources("1", "2Gi", "4", "4Gi"),
        "fetch": Resources("1", "2Gi", "4", "4Gi"),
        "matrix": Resources("2", "8Gi", "8", "16Gi"),
        "svd": Resources("2", "8Gi", "2", "8Gi"),
        "reconstruct": Resources("2", "8Gi", "8", "16Gi"),
        "report": Resources("2", "8Gi", "8", "16Gi"),
        "publish": Resources("500m", "2Gi", "4", "4Gi"),
        "summary": Resources("250m", "1Gi", "2", "2Gi"),
        "deploy": Resources("100m", "256Mi", "1", "1Gi"),
        "cleanup": Resources("100m", "256Mi", "1", "1Gi"),
    },
}
"""Resources by size and step; a package has some of the steps. The memory of Spark's pods is divided between heap and
overhead by what they request."""


def parse_requests(texts: Iterable[str]) -> dict[str, dict[str, str]]:
    """Parse requests such as `matrix:cpu=2,memory=8Gi`.

    Returns:
        The requested amounts of `cpu` and `memory`, by step.

    Raises:
        CtbasisError: A text has another form, there is no such step, or an amount is no quantity.
    """
    from ctbasis.kubeflow.lint import quantity

    found: dict[str, dict[str, str]] = {}
    for text in texts:
        step, _, amounts = text.partition(":")
        if step not in SIZES[DEFAULT_SIZE]:
            raise CtbasisError(
                f"{text!r} names no step of the pipeline", expected=f"one of {', '.join(SIZES[DEFAULT_SIZE])}, then ':'"
            )
        for part in amounts.split(","):
            name, _, amount = part.partition("=")
            number = quantity(amount)
            if name not in {"cpu", "memory"} or number is None or number <= 0:
                raise CtbasisError(
                    f"{part!r} in {text!r} requests nothing that a pod can have",
                    expected="cpu=QUANTITY or memory=QUANTITY, as in matrix:cpu=500m,memory=2Gi",
                    remedy="correct the spelling",
                )
            found.setdefault(step, {})[name] = amount
    return found


def resize(executors: dict[str, Any], size: str, requests: Mapping[str, Mapping[str, str]]) -> None:
    """Give the steps of a package other resources.

    Args:
        executors: The executors of the package, by label, which are changed in place.
        size: One of `SIZES`, or empty for the resources that the package has.
        requests: Requested amounts by step, from `parse_requests`.

    Raises:
        KeyError: The package lacks a step.
    """
    ours = [step for step in SIZES[size] if f"exec-{step}" in executors] if size else []
    for step in dict.fromkeys([*ours, *requests]):
        container = executors[f"exec-{step}"]["container"]
        resources = SIZES[size][step] if size else Resources.from_spec(container["resources"])
        container["resources"] = resources.requesting(**requests.get(step, {})).to_spec()
