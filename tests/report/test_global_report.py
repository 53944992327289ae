"""The report step in global mode, from the stores to figures, metrics and the page."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from ctbasis.errors import CtbasisError
from ctbasis.matrix.ingest import ingest
from ctbasis.parameters import SvdPlan
from ctbasis.report.global_report import write_report
from ctbasis.report.page import REASONS_LISTED
from ctbasis.simulate.phantom import write_chest
from ctbasis.steps.svd import factorize, noise_norm
from ctbasis.svd.project import project_matrix
from tests.store_edits import edit_root

if TYPE_CHECKING:
    from collections.abc import Callable

FILES = {"figure1.png", "report.html", "report.md", "metrics.json"}

OWN_SCRIPTS = 2
"""Script elements of the page: the slices to scroll through, and the code that shows them."""


class Page(HTMLParser):
    """Tags, links and text of the page, as a browser finds them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "img", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def run(stores: Any, out: Path, *, rank: int = 3, ranks: tuple[int, ...] = (1, 3, 20), truth: bool = False) -> Any:
    return write_report(
        stores.matrix.uri,
        stores.basis.uri,
        rank=rank,
        ranks=ranks,
        qc=stores.qc,
        out=out,
        truth_uri=stores.truth.uri if truth else None,
    )


def metrics_in(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found


def page_in(out: Path) -> Page:
    return Page((out / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def report(make_stores: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, dict[str, float]]:
    """Return stores, the folder of their report with a truth, and its scalar metrics. Tests only read them."""
    stores, out = make_stores(series=(8, 4)), tmp_path_factory.mktemp("run") / "out"
    return stores, out, run(stores, out, truth=True)


def test_all_files_are_written_and_no_others(report: Any) -> None:
    _, out, _ = report
    assert {path.name for path in out.iterdir()} == FILES
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    Image.open(out / "figure1.png").verify()


def test_the_metrics_equal_those_computed_from_the_matrix(report: Any) -> None:
    stores, out, flat = report
    s = np.linalg.svd(stores.A, compute_uv=False)
    residual = np.sqrt(np.sum(s[3:] ** 2) / np.sum(s**2))
    assert flat["rank"] == 3
    assert flat["cols"] == 12
    assert flat["energy_captured"] == pytest.approx(1 - residual**2, abs=1e-6)
    assert flat["relative_residual"] == pytest.approx(residual, rel=1e-4)
    metrics = metrics_in(out)
    single = {name: value for name, value in flat.items() if not name.startswith(("before_", "after_"))}
    assert {name: metrics[name] for name in single} == single
    assert metrics["ranks"]["3"]["removed_std_hu"] == flat["removed_std_hu"] > 0
    assert metrics["oversample_asked"] == 15
    assert metrics["oversample"] == 6


def test_a_rank_above_the_number_of_slices_is_full_rank_and_removes_exactly_nothing(report: Any) -> None:
    identity = metrics_in(report[1])["ranks"]["20"]
    assert identity["identity"] is True
    assert identity["label"] == "k=12, full rank (20 requested)"
    assert (identity["energy_captured"], identity["relative_residual"], identity["removed_std_hu"]) == (1, 0, 0)


def test_ranks_above_the_stored_one_are_shown_at_it_and_the_denoised_rank_is_always_shown(
    stores: Any, tmp_path: Path
) -> None:
    run(stores, tmp_path / "out", rank=2, ranks=(1, 9))
    metrics = metrics_in(tmp_path / "out")
    assert list(metrics["ranks"]) == ["1", "2", "9"]
    assert metrics["ranks"]["9"]["run"] == 6
    assert "Rank 9 is shown at rank 6" in page_in(tmp_path / "out").text


def test_for_a_truth_of_low_rank_that_rank_scores_better_than_the_input(report: Any) -> None:
    stores, out, flat = report
    assert flat["after_rmse"] < 0.7 * flat["before_rmse"]
    assert flat["after_psnr"] > flat["before_psnr"]
    assert flat["after_ssim"] > flat["before_ssim"]
    metrics = metrics_in(out)
    assert metrics["ranks"]["20"]["scores"] == metrics["before"]
    assert metrics["ranks"]["3"]["scores"] == metrics["after"]
    # All slices are sampled, so the score equals that of the whole matrix.
    assert metrics["slices_sampled"] == 12
    assert flat["before_rmse"] == pytest.approx(np.sqrt(np.mean((stores.A - stores.T) ** 2)), rel=1e-3)
    assert "before: the input" in page_in(out).text


def test_removed_noise_has_the_edge_ratio_of_noise_and_removed_anatomy_gives_a_warning(
    report: Any, stores: Any, tmp_path: Path
) -> None:
    _, out, flat = report
    assert flat["edge_ratio"] == pytest.approx(flat["noise_edge_ratio"], abs=0.15)
    assert "anatomy was removed with the noise" not in page_in(out).text
    lower = run(stores, tmp_path / "out", rank=1, truth=True)
    assert lower["edge_ratio"] > 1.5
    assert "anatomy was removed with the noise" in page_in(tmp_path / "out").text


def test_without_a_truth_there_are_no_scores(stores: Any, tmp_path: Path) -> None:
    flat = run(stores, tmp_path / "out")
    assert not [name for name in flat if name.startswith(("before", "after"))]
    assert "known truth" not in page_in(tmp_path / "out").text
    assert "known truth" not in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize(
    ("rank", "expected"),
    [(10, None), (11, "92% of the full rank, 12: almost nothing was removed"), (50, "denoised series is the input")],
)
def test_a_rank_near_the_number_of_slices_gives_a_warning(
    make_stores: Any, tmp_path: Path, rank: int, expected: str | None
) -> None:
    run(make_stores(rank=12), tmp_path / "out", rank=rank, ranks=(rank,))
    for name in ("report.html", "report.md"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        if expected is None:
            assert "almost nothing was removed" not in text
            assert "denoised series is the input" not in text
        else:
            assert expected in text


def test_the_page_shows_the_limits_that_the_factorization_applied(report: Any) -> None:
    assert "Oversample 15 is reduced to 6" in page_in(report[1]).text


def test_the_page_is_well_formed_and_self_contained(report: Any) -> None:
    _, out, _ = report
    page = page_in(out)
    assert page.open == []
    assert page.tags.count("img") == 4
    assert all(link.startswith(("data:image/png;base64,", "data:image/svg+xml;base64,")) for link in page.links)
    assert not {"link", "iframe", "object", "base"} & set(page.tags)
    assert page.tags.count("script") == OWN_SCRIPTS
    text = (out / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", re.sub(r"base64,[A-Za-z0-9+/=]+", "", text))


def test_the_page_shows_what_was_read_and_why_files_were_skipped(report: Any) -> None:
    text = " ".join(page_in(report[1]).text.split())
    for words in (
        "14 files, 12 slices in the matrix, 2 gaps",
        "20 voxels of padding in 2 slices",
        "60 voxels of air around the patient, or clipped by the scanner, in 12 slices",
        "skipped: not a slice of a CT series a localizer 2",
        "read, with a defect tolerated or repaired RescaleSlope is absent 12",
        "1.2.2",
        "Not for diagnosis",
    ):
        assert words in text


def test_no_output_contains_patient_data(report: Any) -> None:
    stores, out, _ = report
    assert stores.matrix.header(0) == b"Doe^Jane"
    assert "Doe_Jane/19600101/slice.dcm" in stores.qc.read_text()
    for path in out.iterdir():
        content = re.sub(rb"base64,[A-Za-z0-9+/=]+", b"", path.read_bytes())
        for known in (b"Doe^", b"Doe_", b"Jane", b"19600101", b".dcm"):
            assert known not in content


def test_text_from_files_is_escaped(make_stores: Any, tmp_path: Path) -> None:
    hostile = [{"file": "x", "reason": "<script>alert(1)</script>", "broken": True}]
    run(make_stores(set_aside=hostile), tmp_path / "out")
    page = page_in(tmp_path / "out")
    assert page.tags.count("script") == OWN_SCRIPTS
    assert "<script>alert(1)</script>" in page.text


def test_the_table_of_outcomes_counts_every_file_and_limits_the_number_of_reasons(
    make_stores: Any, tmp_path: Path
) -> None:
    aside = [{"file": "x", "reason": f"truncated at {number}", "broken": True} for number in range(1000)]
    run(make_stores(set_aside=aside), tmp_path / "out")
    text = " ".join(page_in(tmp_path / "out").text.split())
    assert text.count("rejected: a CT slice that cannot be used truncated at") == REASONS_LISTED
    rest = 1000 - REASONS_LISTED
    assert f"rejected: a CT slice that cannot be used {rest} other reasons, see qc.json {rest}" in text


def test_a_second_run_replaces_the_report_and_keeps_other_files(stores: Any, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    run(stores, out, rank=1)
    run(stores, out, rank=3)
    assert metrics_in(out)["rank"] == 3
    assert {path.name for path in out.iterdir()} == FILES | {"notes.txt"}


def test_the_truth_of_another_series_is_rejected(stores: Any, tmp_path: Path) -> None:
    edit_root(stores.truth.uri, series=[{**vars(entry), "spacing": 5.0} for entry in stores.truth.series])
    with pytest.raises(CtbasisError, match=r"12 slices 5 mm apart.*\n.*12 slices 2\.5 mm apart"):
        run(stores, tmp_path / "out", truth=True)
    assert not (tmp_path / "out").exists()


def test_the_basis_of_another_matrix_is_rejected(stores: Any, tmp_path: Path) -> None:
    edit_root(stores.basis.uri, image=[40, 48])
    with pytest.raises(CtbasisError, match="40 x 48 voxels"):
        run(stores, tmp_path / "out")


@pytest.mark.parametrize(("rank", "ranks"), [(0, (1,)), (-1, (1,)), (3, (0, 3))])
def test_a_rank_below_one_is_rejected(stores: Any, tmp_path: Path, rank: int, ranks: tuple[int, ...]) -> None:
    with pytest.raises(CtbasisError, match="rank is"):
        run(stores, tmp_path / "out", rank=rank, ranks=ranks)


@pytest.mark.parametrize("content", [None, "{ not JSON"])
def test_a_missing_or_invalid_qc_json_is_rejected_and_nothing_is_written(
    stores: Any, tmp_path: Path, content: str | None
) -> None:
    stores.qc.unlink()
    if content is not None:
        stores.qc.write_text(content)
    with pytest.raises(CtbasisError, match=r"qc\.json"):
        run(stores, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_failure_while_writing_leaves_no_metrics_json(
    stores: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(stores, tmp_path / "out")
    replace = Path.replace

    def full_disk(path: Path, target: Path) -> Path:
        if Path(target).name == "report.md":
            raise OSError("No space left on device")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", full_disk)
    with pytest.raises(CtbasisError, match="No space left"):
        run(stores, tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.json").exists()
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".ctbasis")]


@pytest.mark.data
def test_a_real_series_is_processed_from_dicom_to_the_report(real_data: Callable[[str], Path], tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for path in sorted(real_data("lidc-idri-0001").rglob("*.dcm"))[60:72]:
        shutil.copy(path, source)
    matrix, factors = str(tmp_path / "m.zarr"), str(tmp_path / "f.zarr")
    ingest(source, matrix, tmp_path / "qc.json", workers=1)
    factorize(matrix, factors, SvdPlan.of(rank="4", ranks="4,244", engine="numpy"))
    flat = write_report(matrix, factors, rank=4, ranks=[4, 244], qc=tmp_path / "qc.json", out=tmp_path / "out")
    assert flat["rows"] == 512 * 512
    assert 0.9 < flat["energy_captured"] < 1
    assert page_in(tmp_path / "out").tags.count("img") == 4


def test_a_projection_on_a_stored_basis_is_never_treated_as_full_rank(
    make_stores: Callable[..., Any], tmp_path: Path
) -> None:
    first, stores = make_stores(rank=4), make_stores(rank=12)
    basis = project_matrix(stores.matrix, first.basis, str(tmp_path / "projected.zarr"), rank=4, noise_norm=noise_norm)
    edit_root(basis.uri, projection={**basis.projection, "own": None, "lost": 0.5})
    write_report(stores.matrix.uri, basis.uri, rank=12, ranks=(12, 300), qc=stores.qc, out=tmp_path / "out")
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    text = Page((tmp_path / "out" / "report.html").read_text()).text
    assert (metrics["rank"], metrics["projection"]["lost"]) == (4, 0.5)
    assert not any(entry["identity"] for entry in metrics["ranks"].values())
    assert metrics["removed_std_hu"] > 1
    assert "nothing was removed" not in text
    assert "which leave out 50.0% of it" in text
    assert "The basis cannot represent this patient" in text


def test_rank_one_of_a_chest_possibly_removes_anatomy_and_page_and_text_say_so(tmp_path: Path) -> None:
    """The mean of slices 20 mm apart is no slice: what rank 1 removes shows organs."""
    source, matrix, factors = tmp_path / "chest", str(tmp_path / "m.zarr"), str(tmp_path / "f.zarr")
    write_chest(source, slices=3, rows=192, columns=192, spacing=20.0)
    ingest(source, matrix, tmp_path / "qc.json", workers=1)
    factorize(matrix, factors, SvdPlan.of(rank="1", ranks="1,3", engine="numpy"))
    write_report(matrix, factors, rank=1, ranks=[1, 3], qc=tmp_path / "qc.json", out=tmp_path / "out")
    metrics = metrics_in(tmp_path / "out")
    assert metrics["anatomy_possible_at"]
    assert metrics["anatomy_removed"].startswith("possible at slices ")
    assert metrics["ranks"]["3"]["anatomy_removed"].startswith("not measured")
    warning = f"Anatomy of low contrast may have been removed with the noise: {metrics['anatomy_removed']}."
    assert any(entry.startswith(warning) for entry in metrics["warnings"])
    for text in (page_in(tmp_path / "out").text, (tmp_path / "out" / "report.md").read_text()):
        assert warning in " ".join(text.split())
