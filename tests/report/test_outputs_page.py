"""docs/reference/outputs.md lists every key of metrics.json and no other; metrics.schema.json has their types."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jsonschema import Draft202012Validator

from ctbasis.patch.matrix import denoise_matrix
from ctbasis.patch.plan import PatchPlan
from ctbasis.report.global_report import write_report
from ctbasis.report.patch_report import write_patch_report

if TYPE_CHECKING:
    from tests.report.conftest import Stores

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "outputs.md"
SCHEMA = json.loads(PAGE.with_name("metrics.schema.json").read_text(encoding="utf-8"))


def listed() -> list[dict[str, str]]:
    """Return key and meaning in the tables of the page: of both modes, of global mode only, of patch mode only."""
    section = PAGE.read_text(encoding="utf-8").split("\n## metrics.json\n")[1].split("\n## ")[0]
    tables = re.findall(r"\| --- \| --- \|\n((?:\|.*\n)+)", section)
    return [
        {
            key: re.sub(r"\[([^\]]*)\]\([^)]*\)|`", r"\1", row.split("|", 2)[2].removesuffix("|").strip())
            for row in table.splitlines()
            for key in re.findall(r"`(\w+)`", row.split("|")[1])
        }
        for table in tables
    ]


def check(metrics: dict[str, Any]) -> None:
    """Fail unless the schema accepts the metrics, refuses a further key, and misses a key that is removed."""
    validator = Draft202012Validator(SCHEMA)
    validator.validate(metrics)
    assert not validator.is_valid(metrics | {"other": 1})
    assert not validator.is_valid({key: value for key, value in metrics.items() if key != "warnings"})


def test_the_schema_describes_each_key_as_the_page_does() -> None:
    described = [
        {key: one["description"] for key, one in SCHEMA["$defs"][group]["properties"].items()}
        for group in ("both", "global", "patch")
    ]
    assert described == listed()


def test_the_page_lists_the_keys_of_global_mode(stores: Stores, tmp_path: Path) -> None:
    write_report(
        stores.matrix.uri, stores.basis.uri, rank=3, ranks=[3], qc=stores.qc, out=tmp_path, truth_uri=stores.truth.uri
    )
    both, of_global, _ = listed()
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics.keys() == both.keys() | of_global.keys()
    check(metrics)


def test_the_page_lists_the_keys_of_patch_mode(stores: Stores, tmp_path: Path) -> None:
    denoised, bases = f"{tmp_path}/denoised.zarr", f"{tmp_path}/bases.zarr"
    plan = PatchPlan(engine="numpy", tau=2.3, wiener=False, stride=1, classes=2)
    denoise_matrix(stores.matrix.uri, denoised, bases, plan)
    out = tmp_path / "out"
    write_patch_report(stores.matrix.uri, denoised, bases, qc=stores.qc, out=out, truth_uri=stores.truth.uri)
    both, _, of_patch = listed()
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics.keys() == both.keys() | of_patch.keys()
    check(metrics)
