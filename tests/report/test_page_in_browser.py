"""The report's pages in a real browser: their policy allows what they are made of, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ctbasis.patch.matrix import denoise_matrix
from ctbasis.patch.plan import PatchPlan
from ctbasis.report.global_report import write_report
from ctbasis.report.patch_report import write_patch_report
from tests.accessibility import PHONE, overhang, violations

if TYPE_CHECKING:
    from pathlib import Path

    from tests.browser import Open
    from tests.report.conftest import Stores


@pytest.fixture(params=["global", "patch"])
def report(request: pytest.FixtureRequest, stores: Stores, tmp_path: Path) -> Path:
    """Return the page of a run in each mode."""
    matrix, out = stores.matrix.uri, tmp_path / "out"
    if request.param == "global":
        write_report(matrix, stores.basis.uri, rank=3, ranks=[3], qc=stores.qc, out=out)
    else:
        denoised, bases = f"{tmp_path}/denoised.zarr", f"{tmp_path}/bases.zarr"
        denoise_matrix(matrix, denoised, bases, PatchPlan(engine="numpy", tau=2.3, wiener=False, stride=1, classes=2))
        write_patch_report(matrix, denoised, bases, qc=stores.qc, out=out)
    return out / "report.html"


def test_a_page_is_accessible_fits_a_phone_and_loads_nothing_but_its_style_and_pictures(
    report: Path, open_page: Open
) -> None:
    opened = open_page(report)
    assert opened.requests == [report.as_uri()]
    assert opened.messages == []
    assert opened.page.evaluate("getComputedStyle(document.body).maxWidth") != "none"
    pictures = opened.page.locator("img")
    assert pictures.count() >= 4
    assert pictures.evaluate_all("all => all.every(one => one.naturalWidth > 100)")
    opened.page.locator("details").evaluate_all("all => all.forEach(one => { one.open = true })")
    assert violations(opened.page) == []
    assert violations(opened.page, scheme="dark") == []
    phone = open_page(report, size=PHONE).page
    phone.locator("details").evaluate_all("all => all.forEach(one => { one.open = true })")
    assert overhang(phone) == 0
    assert violations(phone) == []


def test_a_script_that_gets_into_a_page_is_not_run(report: Path, open_page: Open) -> None:
    text = report.read_text(encoding="utf-8")
    report.write_text(text.replace("<h1>", "<script>window.ran = 1</script><h1>", 1), encoding="utf-8")
    opened = open_page(report)
    assert opened.page.evaluate("window.ran") is None
    assert "Content Security Policy" in opened.messages[0]
