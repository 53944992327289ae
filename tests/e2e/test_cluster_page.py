"""The quotations of docs/explanation/cluster.md are equal to the compiled package and the manifests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

CHECKOUT = Path(__file__).parents[2]
QUOTE = re.compile(r"From `([^`]+)`:\n\n```yaml\n(.*?)```", re.DOTALL)
QUOTES = QUOTE.findall((CHECKOUT / "docs" / "explanation" / "cluster.md").read_text())


def within(part: Any, whole: Any) -> bool:
    """Return whether `part` equals `whole`, except for omitted keys of mappings."""
    if isinstance(part, dict) and isinstance(whole, dict):
        return all(key in whole and within(value, whole[key]) for key, value in part.items())
    if isinstance(part, list) and isinstance(whole, list):
        return len(part) == len(whole) and all(within(*pair) for pair in zip(part, whole, strict=True))
    return bool(part == whole)


def test_the_page_quotes_the_package_and_the_role() -> None:
    assert {file for file, _ in QUOTES} == {"pipeline/denoise.yaml", "manifests/base/launch.yaml"}


@pytest.mark.parametrize(("file", "quote"), QUOTES, ids=[file for file, _ in QUOTES])
def test_every_quotation_is_in_the_quoted_file(file: str, quote: str) -> None:
    documents = list(yaml.safe_load_all((CHECKOUT / file).read_text()))
    for part in yaml.safe_load_all(quote):
        assert any(within(part, document) for document in documents), part
