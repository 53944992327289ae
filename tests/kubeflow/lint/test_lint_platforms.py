"""Every rule for the platform document of a package finds its planted fault at its place."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from ctbasis.kubeflow.lint import lint
from tests.kubeflow.lint.samples import assert_reported, drop, put, saved

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CONFIG = "platforms kubernetes deploymentSpec executors exec-numbers"
CONFIG_AT = "platforms.kubernetes.deploymentSpec.executors.exec-numbers"
PIPELINE = "platforms kubernetes pipelineConfig"
PIPELINE_AT = "platforms.kubernetes.pipelineConfig"

PLATFORM_FAULTS: dict[str, tuple[Callable[[Any], None], str, str]] = {
    "misspelt key": (put(f"{CONFIG} secretsAsEnv", []), f"{CONFIG_AT}.secretsAsEnv", "is not a field of"),
    "misspelt key below": (
        put(f"{CONFIG} secretAsEnv 0 secret", "s3"),
        f"{CONFIG_AT}.secretAsEnv[0].secret",
        "is not a field of",
    ),
    "wrong type": (
        put(f"{CONFIG} secretAsEnv 0 optional", "maybe"),
        f"{CONFIG_AT}.secretAsEnv[0].optional",
        "has an invalid value",
    ),
    "unknown executor": (
        put("platforms kubernetes deploymentSpec executors exec-nowhere", {}),
        "platforms.kubernetes.deploymentSpec.executors.exec-nowhere",
        "no executor 'exec-nowhere'",
    ),
    "claim from an unknown input": (
        put(f"{CONFIG} pvcMount 0 pvcNameParameter componentInputParameter", "x"),
        f"{CONFIG_AT}.pvcMount[0].pvcNameParameter.componentInputParameter",
        "no input 'x'",
    ),
    "claim from an unknown task": (
        put(
            f"{CONFIG} pvcMount 0 pvcNameParameter",
            {"taskOutputParameter": {"producerTask": "nobody", "outputParameterKey": "name"}},
        ),
        f"{CONFIG_AT}.pvcMount[0].pvcNameParameter.taskOutputParameter",
        "no task 'nobody' with an output parameter 'name'",
    ),
    "pull policy": (put(f"{CONFIG} imagePullPolicy", "Sometimes"), f"{CONFIG_AT}.imagePullPolicy", "'Sometimes'"),
    "unknown platform": (put("platforms borg", {}), "platforms.borg", "not a platform of kfp-kubernetes"),
    "unknown key": (put("platform", {}), "platform", "is not a field of"),
    "misspelt pipeline key": (put(f"{PIPELINE} ttl", 1), f"{PIPELINE_AT}.ttl", "is not a field of"),
    "negative time to live": (
        put(f"{PIPELINE} resourceTtlOnCompletion", -1),
        f"{PIPELINE_AT}.resourceTtlOnCompletion",
        "is -1",
    ),
    "workspace without a size": (drop(f"{PIPELINE} workspace size"), f"{PIPELINE_AT}.workspace.size", "is missing"),
    "workspace with an invalid size": (
        put(f"{PIPELINE} workspace size", "1 GB"),
        f"{PIPELINE_AT}.workspace.storage",
        "not a quantity",
    ),
    "misspelt claim": (
        put(f"{PIPELINE} workspace kubernetes pvcSpecPatch accessMode", ["ReadWriteMany"]),
        f"{PIPELINE_AT}.workspace.kubernetes.pvcSpecPatch.accessMode",
        "not a field of this kind",
    ),
    "access mode": (
        put(f"{PIPELINE} workspace kubernetes pvcSpecPatch accessModes", ["RWX"]),
        f"{PIPELINE_AT}.workspace.kubernetes.pvcSpecPatch.accessModes[0]",
        "'RWX' is not an access mode",
    ),
    "workspace used but not declared": (
        drop(f"{PIPELINE} workspace"),
        "root.dag.tasks.farewell.inputs.parameters.workspace.runtimeValue.constant",
        "uses a workspace",
    ),
}


@pytest.mark.parametrize("name", PLATFORM_FAULTS)
def test_a_fault_in_the_platform_document_is_reported_at_its_place(
    name: str, compiled: list[dict[str, Any]], tmp_path: Path
) -> None:
    mutate, where, message = PLATFORM_FAULTS[name]
    spec, platform = copy.deepcopy(compiled)
    mutate(platform)
    assert_reported(lint([saved(tmp_path / "p.yaml", spec, platform)]), where, message)
