"""Files that are not well-formed YAML are reported, quantities are parsed, and no content makes the lint fail."""

from __future__ import annotations

import copy
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ctbasis.kubeflow.lint import lint, quantity
from tests.kubeflow.lint.samples import APPLICATION, KUSTOMIZATION, POD, assert_reported, saved

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("content", "where", "message"),
    [
        (b"", "file", "is empty"),
        (b"# only a comment\n", "file", "is empty"),
        (b"a: b\n---\n", "document 2", "is empty"),
        (b"a: [1\n", "line 2", "is not YAML"),
        (b"a:\n\tb: 1\n", "line 2", "cannot start any token"),
        (b"day: 2026-13-45\n", "file", "is not YAML"),
        (b"a: \xff\n", "byte 3", "is not UTF-8"),
        (b"just words\n", "document 1", "is a str, not a mapping"),
        (b"- a\n", "document 1", "is a list, not a mapping"),
        (b"spec:\n  on: 1\n", "document 1", "keys that are not strings"),
        (b"spec:\n  a: 1\n  b: [{c: 1, c: 2}]\n  a: 2\n", "spec.a", "duplicate key (repeated on line 4)"),
        (b"spec:\n  b: [{c: 1, c: 2}]\n", "spec.b[0].c", "duplicate key (repeated on line 2)"),
        (b"name: nothing known\n", "document 1", "neither a compiled package nor a manifest"),
        (b"apiVersion: v1\nkind: ''\n", "document 1", "neither a compiled package nor a manifest"),
        (b"apiVersion: v1\nkind: List\nitems: [3]\n", "document 1.items[0]", "neither a compiled package nor a"),
        (b"platforms: {}\n", "document 1", "no package precedes it"),
    ],
)
def test_malformed_documents_are_reported(content: bytes, where: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_bytes(content)
    assert_reported(lint([file]), where, message)


def test_a_key_that_overrides_a_merged_key_is_not_a_duplicate(tmp_path: Path) -> None:
    labels = "{metadata: &named {name: c, labels: {a: b}}, apiVersion: v1, kind: ConfigMap}"
    override = "{metadata: {<<: *named, name: d}, apiVersion: v1, kind: ConfigMap}"
    (tmp_path / "m.yaml").write_text(f"{{apiVersion: v1, kind: List, items: [{labels}, {override}]}}")
    assert lint([tmp_path / "m.yaml"]) == []


def test_a_missing_file_is_a_fault_and_a_folder_stands_for_its_files(tmp_path: Path) -> None:
    assert_reported(lint([tmp_path / "absent.yaml"]), "file", "cannot be read")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.yml").write_text("")
    assert [fault.file for fault in lint([tmp_path])] == [tmp_path / "deep" / "a.yml"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("500m", "0.5"),
        ("2", "2"),
        ("1Ki", "1024"),
        ("1.5Gi", "1610612736"),
        ("1e3", "1000"),
        ("2k", "2000"),
        (".5", ".5"),
    ],
)
def test_quantities_are_parsed_as_kubernetes_parses_them(text: str, number: str) -> None:
    from kubernetes.utils.quantity import parse_quantity

    assert quantity(text) == parse_quantity(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "1 Gi", "1gb", "Gi", "1KI", "one", "NaN", "1_000", "--1"])
def test_a_text_that_is_not_a_quantity_has_no_number(text: str) -> None:
    assert quantity(text) is None


def paths(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value below `value`."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, item in items for path in [(*above, key), *paths(item, (*above, key))]]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_an_unexpected_value_anywhere_does_not_make_the_lint_fail(
    compiled: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    manifests = [[yaml.safe_load(text)] for text in (APPLICATION, POD, KUSTOMIZATION)]
    documents = copy.deepcopy(data.draw(st.sampled_from([compiled, *manifests])))
    *above, key = data.draw(st.sampled_from(paths(documents)))
    holder: Any = documents
    for step in above:
        holder = holder[step]
    odd = [None, 3, -1.5, "x", "", True, [], {}, [1], [None], {"a": 1}, {"a": None}, [{"name": 3}], [[]]]
    holder[key] = data.draw(st.sampled_from(odd))
    for fault in lint([saved(tmp_path_factory.getbasetemp() / "odd.yaml", *documents)]):
        assert fault.where
        assert fault.message
