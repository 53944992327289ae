"""The interactive slab of the reports: what is on the screen, its size, and the page without JavaScript."""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ctbasis.patch.matrix import denoise_matrix
from ctbasis.patch.plan import PatchPlan
from ctbasis.patch.result import PatchStore
from ctbasis.report.global_report import write_report
from ctbasis.report.patch_report import write_patch_report
from ctbasis.viewer.slab import MOST_BYTES, slab

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from tests.browser import Open
    from tests.report.conftest import Stores


def noisy_slices(edge: int) -> dict[str, NDArray[np.float32]]:
    rng = np.random.default_rng(0)
    before = rng.normal(0, 40, (16, edge, edge)).astype(np.float32)
    return {"before": before, "after": before / 2, "sigma": np.full_like(before, 40)}


def read(text: str | None) -> Any:
    assert text is not None
    return json.loads(text)


def test_a_slab_of_noisy_slices_is_smaller_than_its_bound() -> None:
    images = noisy_slices(512)
    text = slab(images, range(1, 17), total=300, pixel_spacing=(0.7, 0.7))
    assert text is not None
    assert len(text) <= MOST_BYTES
    assert len(read(text)["numbers"]) >= 3
    smaller = noisy_slices(64)
    assert len(read(slab(smaller, range(1, 17), total=16, pixel_spacing=(1, 1)))["numbers"]) == 8
    assert slab(smaller, range(1, 17), total=16, pixel_spacing=(1, 1), most=1000) is None


def test_a_report_shows_its_slab_in_a_browser(stores: Stores, tmp_path: Path, open_page: Open) -> None:
    matrix = stores.matrix.uri
    denoised, bases = f"{tmp_path}/denoised.zarr", f"{tmp_path}/bases.zarr"
    denoise_matrix(matrix, denoised, bases, PatchPlan(engine="numpy", tau=2.3, wiener=False, stride=1, classes=2))
    write_patch_report(matrix, denoised, bases, qc=stores.qc, out=tmp_path / "out")
    page = tmp_path / "out" / "report.html"
    opened = open_page(page)
    opened.page.wait_for_selector("[data-shown='axial 4']")
    after = PatchStore.open(denoised).read_block(0, dtype=np.float32)
    rows, columns = stores.matrix.image
    for index in (4, 5):
        opened.page.wait_for_selector(f"[data-shown='axial {index}']")
        number = opened.page.evaluate("viewer.study.planes.axial.numbers[viewer.index]")
        for name, volume in (("before", stores.A), ("after", after)):
            canvas = opened.page.locator(f".pane-{name} canvas")
            with Image.open(BytesIO(canvas.screenshot())) as picture:
                shown = np.asarray(picture.convert("L"), np.float64)
            image = volume[:, number - 1].reshape(rows, columns)
            expected = np.clip((np.rint(image) + 1000) / 1200 * 255, 0, 255)
            spots = [(row, column) for row in range(4, rows, 8) for column in range(4, columns, 8)]
            places = opened.page.evaluate(
                "([name, spots]) => { const p = viewer.layout(viewer.panes[name].canvas);"
                " return spots.map(([r, c]) => [p.left + (c + 0.5) * p.across, p.top + (r + 0.5) * p.down]); }",
                [name, spots],
            )
            greys = [shown[round(y), round(x)] for x, y in places]
            assert greys == pytest.approx([expected[spot] for spot in spots], abs=1.5)
        opened.page.locator(".slices-slider").press("ArrowRight")
    assert opened.messages == []
    assert opened.requests == [page.as_uri()]


def test_a_report_without_javascript_has_its_pictures_and_no_empty_panes(
    stores: Stores, tmp_path: Path, open_page: Open
) -> None:
    write_report(stores.matrix.uri, stores.basis.uri, rank=3, ranks=[3], qc=stores.qc, out=tmp_path)
    opened = open_page(tmp_path / "report.html", javascript=False)
    assert opened.page.get_by_text("Figure 1").first.is_visible()
    assert not opened.page.locator("#slab").is_visible()
    opened = open_page(tmp_path / "report.html")
    opened.page.wait_for_selector("[data-shown]")
    assert opened.page.locator("#slab canvas").count() == 3
    assert opened.messages == []
