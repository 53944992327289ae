#!/usr/bin/env python3
"""Argo's emissary and KFP's launcher (backend/src/v2/component/launcher_v2.go) in a step's pod.

The name by which the program is called selects one of them.

`emissary -- COMMAND` is the first process of the container. Like the emissary of Argo 4.0, it starts the command in a
process group of its own, forwards every signal to that group, checks once a second whether the command has ended, and
then exits as well. The kernel kills the remaining processes of the group at that moment, so a step that is stopped has
up to one second.

`launch --executor_input JSON --component_spec JSON ... -- COMMAND` downloads the input artifacts, runs the command, and
uploads the outputs. Like KFP's launcher, it does not handle signals, and exits with 1 for any failure of the command.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

BUCKET = Path("/kfp-artifacts")
PUBLISHED = "KFP-PUBLISHED "


def emissary(command: list[str]) -> int:
    child = subprocess.Popen(command, process_group=0)

    def forward(signum: int, _frame: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signum)

    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(signum, forward)
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == child.pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        if pid == 0:
            time.sleep(1)


def launch(options: argparse.Namespace) -> int:
    given = json.loads(options.executor_input)
    component = json.loads(options.component_spec)
    outputs = given["outputs"]
    _download(given["inputs"]["artifacts"])
    for one in [*outputs["parameters"].values()]:
        Path(one["outputFile"]).parent.mkdir(parents=True, exist_ok=True)
    for artifact in _each(outputs["artifacts"]):
        _local(artifact["uri"]).parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(_compiled(options.command, given, component), check=False)
    if done.returncode:
        sys.stderr.write(f"Component failed to execute successfully: exit status {done.returncode}\n")
        return 1
    metadata = Path(outputs["outputFile"])
    executor_output = json.loads(metadata.read_text()) if metadata.exists() else {}
    published = {
        "parameterValues": _parameters(outputs, executor_output, component),
        "artifacts": _upload(outputs["artifacts"], executor_output),
    }
    sys.stdout.write(PUBLISHED + json.dumps(published) + "\n")
    return 0


def _compiled(command: list[str], given: dict, component: dict) -> list[str]:
    """Replace the placeholder in the command by the executor input with the defaults of the component."""
    values = given["inputs"]["parameterValues"]
    for name, spec in component.get("inputDefinitions", {}).get("parameters", {}).items():
        if "defaultValue" in spec and name not in values:
            values[name] = spec["defaultValue"]
    compiled = [argument.replace("{{$}}", json.dumps(given)) for argument in command]
    others = [argument for argument in command if "{{$." in argument]
    if others:
        raise NotImplementedError(f"placeholders other than the executor input: {others}")
    return compiled


def _parameters(outputs: dict, executor_output: dict, component: dict) -> dict:
    """Return the output parameters, from the executor's file or from one file each (collectOutputParameters)."""
    values = dict(executor_output.get("parameterValues", {}))
    for name, one in outputs["parameters"].items():
        if name not in values:
            text = Path(one["outputFile"]).read_text()
            kind = component["outputDefinitions"]["parameters"][name]["parameterType"]
            values[name] = text if kind == "STRING" else json.loads(text)
    return values


def _upload(artifacts: dict, executor_output: dict) -> dict:
    """Copy each output artifact into the bucket; of an artifact that was not written, only the metadata is kept."""
    published = {}
    for name, listed in artifacts.items():
        artifact = listed["artifacts"][0]
        for written in executor_output.get("artifacts", {}).get(name, {}).get("artifacts", [])[:1]:
            artifact["uri"] = written.get("uri") or artifact["uri"]
            artifact["metadata"] = {**artifact.get("metadata", {}), **written.get("metadata", {})}
        local = _local(artifact["uri"])
        if local.exists():
            _copy_objects(local, _blob(artifact["uri"]))
        else:
            sys.stderr.write(f'Local filepath "{local}" does not exist\n')
        published[name] = artifact
    return published


def _download(artifacts: dict) -> None:
    for artifact in _each(artifacts):
        if _blob(artifact["uri"]).exists():
            _copy_objects(_blob(artifact["uri"]), _local(artifact["uri"]))


def _copy_objects(source: Path, target: Path) -> None:
    """Copy a file, or the files below a folder; like a bucket, the copy has no empty folders and no links."""
    for file in [source] if source.is_file() else sorted(path for path in source.rglob("*") if path.is_file()):
        place = target / file.relative_to(source) if source.is_dir() else target
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)


def _each(artifacts: dict) -> list:
    return [artifact for listed in artifacts.values() for artifact in listed["artifacts"]]


def _local(uri: str) -> Path:
    return Path("/minio") / uri.removeprefix("minio://")


def _blob(uri: str) -> Path:
    return BUCKET / uri.removeprefix("minio://")


def main() -> int:
    split = sys.argv.index("--")
    command = sys.argv[split + 1 :]
    if Path(sys.argv[0]).name == "emissary":
        return emissary(command)
    parser = argparse.ArgumentParser()
    for flag in ("pipeline_name", "run_id", "executor_input", "component_spec", "pod_name", "pod_uid"):
        parser.add_argument(f"--{flag}", required=True)
    options = parser.parse_args(sys.argv[1:split])
    options.command = command
    return launch(options)


if __name__ == "__main__":
    sys.exit(main())
