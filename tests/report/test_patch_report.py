"""The report of patch mode: metrics against plain NumPy, figures, the page and its warnings."""

from __future__ import annotations

import json
import shutil
from html.parser import HTMLParser
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ctbasis.errors import CtbasisError
from ctbasis.matrix.store import MatrixStore
from ctbasis.patch.matrix import denoise_matrix
from ctbasis.patch.plan import PatchPlan
from ctbasis.patch.result import PatchStore
from ctbasis.report.figures import png
from ctbasis.report.patch_figures import SliceViews, choose_profiles, patch_figure1
from ctbasis.report.patch_report import write_patch_report
from ctbasis.storage.array_store import StoreWriter
from ctbasis.storage.schemas import DENOISED
from tests.store_edits import edit_root

if TYPE_CHECKING:
    from pathlib import Path

    from tests.report.conftest import MakeStores, Stores

FILES = {"figure1.png", "report.html", "report.md", "metrics.json"}


@pytest.fixture(scope="module")
def denoised(make_stores: MakeStores, tmp_path_factory: pytest.TempPathFactory) -> tuple[Stores, Path]:
    """Return the stores of a small noisy chest, and the folder with its denoised matrix and bases."""
    stores, place = make_stores(), tmp_path_factory.mktemp("denoised")
    plan = PatchPlan(engine="numpy", tau=2.3, wiener=False, stride=1, classes=2)
    denoise_matrix(stores.matrix.uri, f"{place}/denoised.zarr", f"{place}/bases.zarr", plan)
    return stores, place


def report(denoised: tuple[Stores, Path], out: Path, *, truth: bool = False, result: str = "denoised.zarr") -> Any:
    stores, place = denoised
    scalars = write_patch_report(
        stores.matrix.uri,
        f"{place}/{result}",
        f"{place}/bases.zarr",
        qc=stores.qc,
        out=out,
        truth_uri=stores.truth.uri if truth else None,
    )
    return scalars, json.loads((out / "metrics.json").read_text())


class Links(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del tag
        self.found += [value or "" for name, value in attrs if name in ("src", "href")]


def test_all_files_are_written_and_the_page_is_self_contained(denoised: tuple[Stores, Path], tmp_path: Path) -> None:
    report(denoised, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    page = (tmp_path / "out" / "report.html").read_text()
    links = Links(page).found
    assert len(links) == 5
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert "Patch-mode denoising of 12 CT slices" in page
    assert "Not for diagnosis" in page
    assert "both small and faint" in page
    assert "Doe_Jane" not in page
    with Image.open(tmp_path / "out" / "figure1.png") as figure:
        figure.verify()


def test_the_metrics_equal_those_computed_from_the_two_matrices(denoised: tuple[Stores, Path], tmp_path: Path) -> None:
    stores, place = denoised
    scalars, metrics = report(denoised, tmp_path / "out", truth=True)
    D = PatchStore.open(f"{place}/denoised.zarr").read_columns(slice(0, 12)).astype(np.float64)
    removed, body = stores.A - D, stores.A > -300
    assert metrics["mode"] == "patch"
    assert metrics["restored_noise_fraction"] == metrics["put_back"]
    assert metrics["noise_floor"] == metrics["left"]
    assert all(0 <= fraction <= 1 for fraction in metrics["restored_noise_fraction"] + metrics["noise_floor"])
    # A chest of this size has too few cells for a fit of the scan properties.
    assert metrics["scanner"] == [""] * metrics["series"]
    assert "unknown, because there is too little tissue" in (tmp_path / "out" / "report.html").read_text()
    assert metrics["removed_std_hu"] == pytest.approx(removed[body].std(), rel=1e-3, abs=1e-3)
    assert metrics["relative_residual"] == pytest.approx(np.linalg.norm(removed) / np.linalg.norm(stores.A), rel=1e-3)
    noise = (stores.A - stores.T)[stores.T > -300]
    assert metrics["noise_body_hu"] == pytest.approx(np.sqrt(np.mean(noise**2)), rel=1e-3)
    assert scalars["before_rmse_body"] == pytest.approx(metrics["noise_body_hu"], rel=1e-3)
    assert scalars["after_rmse_body"] == metrics["after"]["rmse_body"]
    assert "Against the known truth" in (tmp_path / "out" / "report.md").read_text()


def test_a_warning_says_that_nothing_was_removed(denoised: tuple[Stores, Path], tmp_path: Path) -> None:
    stores, _ = denoised
    plan = PatchPlan(engine="numpy", tau=0.0, wiener=False, stride=1, classes=2)
    denoise_matrix(stores.matrix.uri, f"{tmp_path}/denoised.zarr", f"{tmp_path}/bases.zarr", plan)
    _, metrics = report((stores, tmp_path), tmp_path / "out")
    assert metrics["removed_std_hu"] < 0.1
    assert "Almost nothing was removed" in (tmp_path / "out" / "report.html").read_text()


def test_a_warning_says_that_anatomy_was_removed(denoised: tuple[Stores, Path], tmp_path: Path) -> None:
    stores, place = denoised
    shutil.copytree(place / "denoised.zarr", place / "blurred.zarr")
    result = MatrixStore.open(f"{place}/blurred.zarr")
    T = stores.T.reshape(*stores.matrix.image, 12)
    blurred = (T + np.roll(T, 2, 0) + np.roll(T, -2, 0)).reshape(-1, 12) / 3
    edit_root(result.uri, complete=False)
    writer = StoreWriter(result.uri, DENOISED)
    writer.create_array("A", blurred.shape, np.float32, chunks=result.chunks).write(blurred)
    writer.finish({})
    _, metrics = report(denoised, tmp_path / "out", result="blurred.zarr")
    assert metrics["edge_ratio"] > 1.5
    assert "anatomy was removed with the noise" in (tmp_path / "out" / "report.html").read_text()


def test_a_truth_of_another_series_is_rejected(
    denoised: tuple[Stores, Path], make_stores: MakeStores, tmp_path: Path
) -> None:
    stores, place = denoised
    other = make_stores(series=(5, 7))
    with pytest.raises(CtbasisError, match="expected: the same as"):
        write_patch_report(
            stores.matrix.uri,
            f"{place}/denoised.zarr",
            f"{place}/bases.zarr",
            qc=stores.qc,
            out=tmp_path / "out",
            truth_uri=other.truth.uri,
        )
    assert not (tmp_path / "out").exists()


def chest(truth: bool) -> SliceViews:
    hu = np.full((128, 128), -1000.0, np.float32)
    hu[20:110, 10:118] = 40.0
    hu[40:80, 20:60] = -850.0
    hu[55:65, 38:42] = 0.0
    hu[90:100, 50:75] = 500.0
    noise = np.random.default_rng(0).normal(0, 20, hu.shape).astype(np.float32)
    return SliceViews(hu + noise, hu, np.full_like(hu, 20.0), hu if truth else None, (1.0, 1.0), "slice 1 of 1")


def test_profiles_pass_through_vessels_bone_and_soft_tissue() -> None:
    lines = {line.name: line for line in choose_profiles(chest(truth=True))}
    assert set(lines) == {"through lung and vessels", "through bone", "through soft tissue"}
    assert 55 <= lines["through lung and vessels"].row < 65
    assert lines["through lung and vessels"].columns.start <= 38
    assert 90 <= lines["through bone"].row < 100


def test_a_slice_of_air_has_a_profile_through_the_middle() -> None:
    air = np.full((40, 40), -1000.0, np.float32)
    lines = choose_profiles(SliceViews(air, air, air * 0, None, (1.0, 1.0), "air"))
    assert [line.name for line in lines] == ["through the middle"]


@pytest.mark.parametrize("truth", [False, True])
def test_figure_1_shows_before_denoised_removed_and_sigma(truth: bool) -> None:
    figure = patch_figure1(chest(truth))
    titles = [axes.get_title() for axes in figure.axes]
    assert [title for title in titles if title] == [
        "before",
        "denoised",
        *["truth"] * truth,
        "removed: must show no anatomy",
        "removed, smoothed by 2 pixels",
        "estimated noise",
    ]
    with Image.open(BytesIO(png(figure))) as image:
        assert image.width > 3 * 128
