"""Modules never import each other in a circle; `make layers` checks the layers themselves (pyproject.toml)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grimp

if TYPE_CHECKING:
    from pathlib import Path

    import pytest
    from grimp import ImportGraph


def circles(graph: ImportGraph) -> list[list[str]]:
    """Return the strongly connected components of more than one module (Tarjan's algorithm)."""
    order: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(module: str) -> None:
        order[module] = lowest[module] = len(order)
        stack.append(module)
        for imported in sorted(graph.find_modules_directly_imported_by(module)):
            if imported not in order:
                visit(imported)
                lowest[module] = min(lowest[module], lowest[imported])
            elif imported in stack:
                lowest[module] = min(lowest[module], order[imported])
        if lowest[module] == order[module]:
            first = stack.index(module)
            component = stack[first:]
            del stack[first:]
            if len(component) > 1:
                found.append(sorted(component))

    for module in sorted(graph.modules):
        if module not in order:
            visit(module)
    return found


def test_no_module_imports_itself_through_others() -> None:
    graph = grimp.build_graph("ctbasis", "components", "pipeline", cache_dir=None)
    assert len(graph.modules) > 100
    assert circles(graph) == []


def test_a_circle_made_of_an_import_for_types_alone_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "rings"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text("from rings import two\n")
    (package / "two.py").write_text("from rings import three\n")
    (package / "three.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rings.one import Name\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    graph = grimp.build_graph("rings", cache_dir=None)
    assert circles(graph) == [["rings.one", "rings.three", "rings.two"]]
