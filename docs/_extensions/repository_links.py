"""Pages link to files of the repository outside of docs/, as GitHub needs it; here the site's pages take their place.

A page below docs/project includes a Markdown file of the repository. A link to such a file becomes a link to its page.
A link to any other file of the repository becomes a download, which MyST makes by itself.
"""

from __future__ import annotations

import re
from os.path import relpath
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

INCLUDE = re.compile(r"^```\{include\} (\S+)", re.MULTILINE)
LINK = re.compile(r"(?<=\]\()([^)\s#:]+)(?=[)#])")
FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)


def included(docs: Path) -> dict[Path, Path]:
    """Return the file that each page below docs/project includes, and that page."""
    pages: dict[Path, Path] = {}
    for page in sorted((docs / "project").glob("*.md")):
        for name in INCLUDE.findall(page.read_text(encoding="utf-8")):
            pages[(page.parent / name).resolve()] = page
    return pages


def rewrite(text: str, folder: Path, page: Path, pages: dict[Path, Path]) -> str:
    """Return the text of a file in `folder` with its links as the page `page` needs them.

    Args:
        text: Markdown.
        folder: Folder from which the links of the text lead.
        page: The page that shows the text.
        pages: From `included`.
    """

    def link(match: re.Match[str]) -> str:
        target = (folder / match[1]).resolve()
        return relpath(pages.get(target, target), page.parent)

    parts = FENCE.split(text)
    return "".join(part if FENCE.fullmatch(part) else LINK.sub(link, part) for part in parts)


def _on_read(app: Sphinx, name: str, source: list[str]) -> None:
    docs = Path(app.srcdir)
    page = Path(app.env.doc2path(name))
    source[0] = rewrite(source[0], page.parent, page, included(docs))


def _on_include(app: Sphinx, path: Path, _parent: str, source: list[str]) -> None:
    # MyST names the parent without its folder, so the page is looked up.
    docs = Path(app.srcdir)
    file = (docs / path).resolve()
    pages = included(docs)
    source[0] = rewrite(source[0], file.parent, pages[file], pages)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register both events."""
    app.connect("source-read", _on_read)
    app.connect("include-read", _on_include)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
