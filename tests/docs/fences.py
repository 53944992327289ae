"""The commands of all pages: which test executes them, or what a test lacks to execute them.

A fenced block of a shell begins with `sh` and a kind. `EXECUTED` names the tests that execute the kinds of a page, and
`LACKING` says why the other kinds are not executed; their commands are parsed. `test_fences.py` fails for a block
without a kind, so a new command finds its test or its reason.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import TYPE_CHECKING

from tests.docs.commands import KINDS

if TYPE_CHECKING:
    from collections.abc import Mapping

CHECKOUT = Path(__file__).parents[2]

PAGES = [
    *(CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "images/spark/mahout/README.md")),
    CHECKOUT / "helm" / "ctbasis" / "README.md",
    *sorted((CHECKOUT / "components").glob("*/README.md")),
    *sorted((CHECKOUT / "docs").rglob("*.md")),
]

EXECUTED: dict[str, dict[str, tuple[str, ...]]] = {
    "docs/how-to/kubeflow.md": KINDS,
    "docs/how-to/cohort.md": dict.fromkeys(("here", "kubeflow"), ("tests/cohort/test_cohort_page.py",)),
    "docs/how-to/pacs.md": dict.fromkeys(("settings", "here"), ("tests/docs/test_pacs_page.py",)),
    "docs/how-to/serving.md": {"python": ("tests/serving/test_serving.py",)},
    "docs/explanation/tasks.md": {"python": ("tests/docs/test_tasks_page.py",)},
    "docs/reference/python.md": {"python": ("tests/test_public_interface.py",)},
    "docs/tutorial/notebook.md": {"python": ("tests/docs/test_tutorials.py",)},
    "docs/tutorial/figure-1.md": dict.fromkeys(("settings", "here"), ("tests/docs/test_tutorials.py",)),
    "docs/how-to/choose-rank-or-tau.md": dict.fromkeys(("settings", "here"), ("tests/docs/test_guides.py",)),
    "docs/how-to/own-bucket.md": dict.fromkeys(("settings", "here"), ("tests/docs/test_guides.py",)),
    "docs/how-to/no-readwritemany.md": dict.fromkeys(("settings", "here"), ("tests/docs/test_guides.py",)),
}
"""The kinds of each page that tests execute, and these tests. `python` is a block of Python without a kind."""

LACKING = {
    "yours": "a series, a bucket, an archive, a server or a cluster of the reader",
    "container": "a container engine that runs the image of the steps",
    "make": "a checkout that may be installed into; `make setup` and `make ci` are what CI itself runs",
    "measurement": "a quiet machine for minutes or hours; the pages of docs/bench are what it printed",
    "sketch": "the rest of a program; the block shows a shape",
}
"""The kinds that no test executes, and what a test lacks."""

FENCE = re.compile(r"^ *(?P<fence>```+|:::+)(?P<info>[^\n]*)\n(?P<text>.*?)^ *(?P=fence)$", re.DOTALL | re.MULTILINE)
SHELLS = {"sh", "bash", "shell", "console"}
COMMAND = r"^{}(?:\.venv/bin/)?(?:ctbasis|kubectl|make|mvn|docker|helm|pip|python3?|curl|export|source) [\w.'\"$-]"
COMMAND_IN_BLOCK = re.compile(COMMAND.replace("{}", ""), re.MULTILINE)
COMMAND_INDENTED = re.compile(COMMAND.replace("{}", " {4}"), re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: Path of the page in the checkout.
        language: First word behind the fence.
        kind: Second word; `python` for Python without one, else empty.
        text: What it holds.
    """

    page: str
    language: str
    kind: str
    text: str


def blocks() -> list[Block]:
    """Return the blocks of all pages."""
    made = []
    for page in PAGES:
        for match in FENCE.finditer(page.read_text(encoding="utf-8")):
            language, _, kind = match["info"].strip().partition(" ")
            if language == "python":
                kind = kind or "python"
            made.append(Block(str(page.relative_to(CHECKOUT)), language, kind, dedent(match["text"])))
    return made


def prose(page: Path) -> str:
    """Return the text of a page without its fenced blocks."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def calls(text: str, program: str) -> list[list[str]]:
    """Return the arguments of each call of a program in the text of a shell."""
    text = re.sub(r"(?:^|\s)#[^\n]*", "", text.replace("\\\n", " "), flags=re.MULTILINE)
    lexer = shlex.shlex(text, posix=True, punctuation_chars="();<>|&\n")
    lexer.whitespace = " \t"
    lexer.whitespace_split = True
    lexer.commenters = ""
    words, found = [], []
    for token in [*lexer, "\n"]:
        if set(token) <= set("();<>|&\n"):
            if words and words[0].removeprefix(".venv/bin/") == program:
                found.append(words[1:])
            words = []
        else:
            words.append(token)
    return found


def execute(page: str, folder: Path, variables: Mapping[str, str]) -> str:
    """Execute the blocks `here` of a page in one shell in a folder, and return what they print.

    Args:
        page: Path of the page in the checkout.
        folder: Working folder.
        variables: Environment besides that of the test, among it the variables that the blocks `settings` export.
    """
    chosen = {
        kind: [block.text for block in blocks() if (block.page, block.kind) == (page, kind)]
        for kind in ("settings", "here")
    }
    exported = set(re.findall(r"^export (\w+)=", "\n".join(chosen["settings"]), re.MULTILINE)) - {"PATH"}
    assert exported <= variables.keys(), exported
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(chosen["here"])],
        cwd=folder,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **variables},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout
