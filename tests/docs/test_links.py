"""Every link, path and page name in README and docs/ points to something that exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
DOCS = CHECKOUT / "docs"
PAGES = [CHECKOUT / "README.md", CHECKOUT / "images" / "spark" / "mahout" / "README.md", *sorted(DOCS.rglob("*.md"))]

LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
PATH = re.compile(
    r"`((?:ctbasis|components|pipeline|manifests|images|tests|docs)/[\w./-]*[\w/]|pyproject\.toml|[\w]+\.py)`"
)
PAGE_NAME = re.compile(r"\bdocs/[\w/-]+\.md\b")


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives the headings of a page."""
    headings = HEADING.findall(FENCE.sub("", page.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def names(page: Path) -> str:
    return str(page.relative_to(CHECKOUT))


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_every_relative_link_leads_to_a_file_and_a_heading(page: Path) -> None:
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_every_path_of_the_repository_that_a_page_names_exists(page: Path) -> None:
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    missing = []
    for path in PATH.findall(text):
        # A page may name a module without its folder.
        folders = () if "/" in path else ("ctbasis", "components", "tests")
        if not (CHECKOUT / path).exists() and not any(list((CHECKOUT / folder).rglob(path)) for folder in folders):
            missing.append(path)
    assert not missing


def test_every_page_that_the_code_names_exists() -> None:
    listed = subprocess.run(
        ["git", "grep", "-I", "-h", "-o", "-E", r"\bdocs/[A-Za-z0-9_/-]+\.md\b"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    pages = {page for page in listed.split() if PAGE_NAME.fullmatch(page)}
    assert pages
    assert not [page for page in pages if not (CHECKOUT / page).exists()]


@pytest.mark.parametrize(
    ("name", "definition"),
    [
        (r"`[^`\n]*\bmake ([a-z0-9-]+)", "^{}:"),
        (r"\b(CTBASIS_[A-Z0-9_]+)", r"\b{}\b"),
        (r"`(test_\w+)`", r"\bdef {}\("),
    ],
    ids=["make target", "environment variable", "test"],
)
def test_everything_that_a_page_calls_by_its_name_is_defined(name: str, definition: str) -> None:
    named = {one for page in PAGES for one in re.findall(name, page.read_text(encoding="utf-8"))}
    assert named
    code = ["Makefile", "ctbasis", "components", "pipeline", "tests/*.py"]
    assert not [one for one in sorted(named) if not _tracked(definition.format(one), code)]


def _tracked(pattern: str, paths: list[str]) -> bool:
    """Return whether a line of a tracked file matches the extended regular expression."""
    found = subprocess.run(["git", "grep", "-q", "-E", pattern, "--", *paths], cwd=CHECKOUT, check=False)
    return found.returncode == 0


@pytest.mark.parametrize("folder", sorted(path.parent for path in DOCS.glob("*/index.md")), ids=names)
def test_the_index_of_a_folder_leads_to_every_page_of_it(folder: Path) -> None:
    index = folder / "index.md"
    linked = {(folder / link.partition("#")[0]).resolve() for link in LINK.findall(index.read_text(encoding="utf-8"))}
    assert not [names(page) for page in folder.glob("*.md") if page != index and page not in linked]


def test_every_folder_of_pages_has_an_index_in_the_navigation() -> None:
    home = (DOCS / "index.md").read_text(encoding="utf-8")
    folders = {page.parent.name for page in DOCS.glob("*/*.md")}
    assert set(re.findall(r"^([\w-]+)/index$", home, re.MULTILINE)) == folders
