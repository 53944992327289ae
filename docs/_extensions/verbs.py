"""The directive `verbs`: every verb of the command line with its options, by the sections of `ctbasis --help`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sphinx.util.docutils import SphinxDirective

from ctbasis.cli import SECTIONS

if TYPE_CHECKING:
    from docutils.nodes import Node
    from sphinx.application import Sphinx


def markdown() -> str:
    """Return the sections as Markdown; sphinx-click fills the directive of each verb from the command itself."""
    parts = []
    for title, verbs in SECTIONS.items():
        parts.append(f"## {title}")
        parts += [
            f"```{{click}} ctbasis.cli.{verb.module}:{verb.function}\n:prog: ctbasis {name}\n:nested: full\n```"
            for name, verb in verbs.items()
        ]
    return "\n\n".join(parts)


class Verbs(SphinxDirective):
    """The directive."""

    def run(self) -> list[Node]:
        """Return the sections."""
        return self.parse_text_to_nodes(markdown(), allow_section_headings=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the directive."""
    app.add_directive("verbs", Verbs)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
