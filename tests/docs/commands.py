"""The commands of docs/how-to/kubeflow.md, by what they need, and a shell that executes them in the page's order.

A fenced block begins with `sh` and the kind of what its commands need. Each kind is executed by the tests of `KINDS`.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKOUT = Path(__file__).parents[2]
PAGE = CHECKOUT / "docs" / "how-to" / "kubeflow.md"

KINDS = {
    # Variables, whose values the tests replace by their own.
    "settings": (),
    "images": ("tests/images/test_push.py", "tests/e2e/test_kubeflow_page.py"),
    "here": ("tests/docs/test_kubeflow_page.py", "tests/e2e/test_kubeflow_page.py"),
    "cluster": ("tests/e2e/test_kubeflow_page.py",),
    "kubeflow": ("tests/docs/test_kubeflow_page.py",),
}
"""The kinds, and the tests that execute their blocks."""

BLOCK = re.compile(r"^```(\w*)(?: (\w+))?\n(.*?)^```$|^## ([^\n]+)$", re.DOTALL | re.MULTILINE)
SETTING = re.compile(r"^export (\w+)=\S*\s+# \w", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of the page.

    Attributes:
        language: What follows the fence.
        kind: What the commands need, one of `KINDS`; empty if nothing stands there.
        text: The commands.
        section: The heading above, of the second level.
    """

    language: str
    kind: str
    text: str
    section: str


def blocks() -> list[Block]:
    """Return the blocks of the page in their order."""
    made, section = [], ""
    for language, kind, text, heading in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        section = heading or section
        if not heading:
            made.append(Block(language, kind, text, section))
    return made


def settings() -> list[str]:
    """Return the names of the variables that the page sets first."""
    (first,) = [block for block in blocks() if block.kind == "settings"]
    names = SETTING.findall(first.text)
    assert len(names) == len(first.text.splitlines()), "a setting is `export NAME=VALUE   # what it is`"
    return names


def clone(folder: Path) -> Path:
    """Make a folder like a clone of the repository for the commands, which write to it, and return it."""
    folder.mkdir()
    for name in ("Makefile", "images", "manifests", "pyproject.toml", ".venv"):
        (folder / name).symlink_to(CHECKOUT / name)
    return folder


def execute(
    folder: Path, *, kinds: set[str], variables: Mapping[str, str], seconds: float, but: str = "", only: str = ""
) -> str:
    """Execute the blocks of these kinds in one shell in the folder, and return what they print.

    Args:
        folder: From `clone`.
        kinds: Kinds of the blocks.
        but: Heading of a section that is left out.
        only: Heading of the single section that is executed, in place of all.
        variables: Environment, among it a value of every setting of the page.
        seconds: Timeout.
    """
    assert set(settings()) <= variables.keys()
    chosen = [block for block in blocks() if block.kind in kinds and block.section != but]
    script = "\n".join(block.text for block in chosen if only in {"", block.section})
    assert script
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
