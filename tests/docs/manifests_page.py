"""Write docs/reference/manifests.md from the folder manifests/: `make reference`."""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path
from textwrap import dedent
from typing import Any

import yaml

MANIFESTS = Path(__file__).parents[2] / "manifests"
PAGE = MANIFESTS.parent / "docs" / "reference" / "manifests.md"

INTRODUCTION = """# Manifests

<!-- Written by `make reference` from the folder manifests/. A test compares the two. -->

The Kubernetes objects of `manifests/`, as kustomize composes them: a base, components, and overlays, which are lists of
components. [Run on Kubeflow](../how-to/kubeflow.md#choose-an-overlay) says which overlay is for whom. The descriptions
are the comments at the head of the files.
"""


def page() -> str:
    """Return the page."""
    return f"{INTRODUCTION}\n{_overlays()}\n{_folders()}"


def _overlays() -> str:
    lines = ["## Overlays", "", "| overlay | extends | components |", "| --- | --- | --- |"]
    for folder in sorted((MANIFESTS / "overlays").iterdir()):
        content = _kustomization(folder)
        extended = ", ".join(f"`{Path(one).name}`" for one in content.get("resources", []) if not one.endswith(".yaml"))
        components = ", ".join(f"`{Path(one).name}`" for one in content.get("components", []))
        lines.append(f"| `{folder.name}` | {extended} | {components} |")
    return "\n".join([*lines, ""])


def _folders() -> str:
    lines = ["## Bases and components", ""]
    for path in sorted(MANIFESTS.rglob("kustomization.yaml")):
        name = str(path.parent.relative_to(MANIFESTS))
        if name.startswith("overlays"):
            continue
        lines += [f"### {name}", ""]
        if comment := _comment(path):
            lines += [comment, ""]
        content = _kustomization(path.parent)
        objects = [row for file in content.get("resources", []) for row in _objects(path.parent / file)]
        if objects:
            lines += ["| object | name | file |", "| --- | --- | --- |", *objects, ""]
        patched = [row for patch in content.get("patches", []) if (row := _patch(patch))]
        if patched:
            lines += ["It changes " + ", ".join(dict.fromkeys(patched)) + ".", ""]
    return "\n".join(lines)


def _kustomization(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((folder / "kustomization.yaml").read_text(encoding="utf-8"))
    return content


def _comment(path: Path) -> str:
    """Return the comment at the head of a file as Markdown; its indented lines are commands or YAML."""
    head = re.match(r"(?:#.*\n)+", path.read_text(encoding="utf-8"))
    lines = [line.removeprefix("#").removeprefix(" ").rstrip() for line in (head[0].splitlines() if head else [])]
    parts = []
    for indented, group in groupby(lines, key=lambda line: line.startswith(" ")):
        text = "\n".join(group)
        if not indented:
            # Asterisks, underscores and names in angle brackets would be markup.
            parts.append(re.sub(r"([*<>_])", r"\\\1", " ".join(text.split())))
            continue
        language = "sh yours" if re.match(r" +(ctbasis|kubectl|make) ", text) else "yaml"
        parts.append(f"```{language}\n{dedent(text)}\n```")
    return "\n\n".join(part for part in parts if part)


def _objects(path: Path) -> list[str]:
    if not path.is_file():
        return []
    documents = [one for one in yaml.safe_load_all(path.read_text(encoding="utf-8")) if one]
    file = path.resolve().relative_to(MANIFESTS)
    return [f"| {one['kind']} | `{one['metadata']['name']}` | `manifests/{file}` |" for one in documents]


def _patch(patch: dict[str, Any]) -> str:
    target = patch.get("target", {})
    return f"{target['kind']} `{target.get('name', 'any')}`" if "kind" in target else ""


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
