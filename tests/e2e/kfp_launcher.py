#!/usr/bin/env python3
"""KFP's launcher (backend/src/v2/component/launcher_v2.go): the program that starts a step in its pod.

`launch --execution_id N --executor_input JSON --component_spec JSON ... -- COMMAND` downloads the input artifacts, runs
the command, uploads the outputs, and writes them and the state to the records that `kfp_driver` describes. Like KFP's
launcher, it does not handle signals, and exits with 1 for any failure of the command: a step that is stopped leaves a
record that still says RUNNING. The program needs Python's standard library only.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

BUCKET = Path("/kfp-artifacts")


def launch(options: argparse.Namespace) -> int:
    given = json.loads(options.executor_input)
    component = json.loads(options.component_spec)
    records = BUCKET / "executions" / options.run_id
    outputs = given["outputs"]
    _download(given["inputs"]["artifacts"])
    for one in [*outputs["parameters"].values()]:
        Path(one["outputFile"]).parent.mkdir(parents=True, exist_ok=True)
    for artifact in _each(outputs["artifacts"]):
        _local(artifact["uri"]).parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(_compiled(options.command, given, component), check=False)
    if done.returncode:
        sys.stderr.write(f"Component failed to execute successfully: exit status {done.returncode}\n")
        publish(records, options.execution_id, {"state": "FAILED"})
        return 1
    metadata = Path(outputs["outputFile"])
    executor_output = json.loads(metadata.read_text()) if metadata.exists() else {}
    published = {
        "state": "COMPLETE",
        "parameters": _parameters(outputs, executor_output, component),
        "artifacts": _upload(outputs["artifacts"], executor_output),
    }
    publish(records, options.execution_id, published)
    return 0


def publish(records: Path, number: int, published: dict) -> None:
    """Update a record, and the state of the graphs above it (metadata/client.go: UpdateDAGExecutionsState)."""
    path = records / f"{number}.json"
    record = json.loads(path.read_text()) | published
    scratch = path.with_suffix(f".{os.getpid()}")
    scratch.write_text(json.dumps(record))
    scratch.replace(path)
    graph = json.loads((records / f"{record['parent']}.json").read_text()) if record["parent"] else {}
    if not graph.get("total_dag_tasks"):
        return
    every = (json.loads(one.read_text()) for one in records.glob("*.json"))
    states = {
        # The items of a loop have one name.
        (one["task"], one.get("iteration")): one["state"]
        for one in sorted(every, key=lambda one: one["id"])
        if one["parent"] == graph["id"]
    }
    if list(states.values()).count("COMPLETE") == graph["total_dag_tasks"]:
        publish(records, graph["id"], {"state": "COMPLETE"})
    elif "FAILED" in states.values():
        publish(records, graph["id"], {"state": "FAILED"})


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
    parser = argparse.ArgumentParser(allow_abbrev=False)
    for flag in ("run_id", "executor_input", "component_spec"):
        parser.add_argument(f"--{flag}", required=True)
    parser.add_argument("--execution_id", type=int, required=True)
    options = parser.parse_known_args(sys.argv[1:split])[0]
    options.command = sys.argv[split + 1 :]
    return launch(options)


if __name__ == "__main__":
    sys.exit(main())
