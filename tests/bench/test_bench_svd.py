"""`ctbasis bench svd`: the generated matrices have the documented spectrum, and the rows hold the measurements."""

from __future__ import annotations

import json
import math
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ctbasis.bench.cases import CASES, PEERS, USUAL, Case, chosen_cases
from ctbasis.bench.contenders import BOUNDS, measured
from ctbasis.bench.matrices import STRENGTH, write_decaying
from ctbasis.bench.svd import MOST_GRAM_COLUMNS, bench_svd, optimal_residual
from ctbasis.cli import main
from ctbasis.errors import CtbasisError
from ctbasis.matrix import store

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from ctbasis.matrix.store import MatrixStore

N = 40
SPECTRUM = 1 / np.arange(1, N + 1)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make row blocks of 256 rows, so that small matrices have several blocks."""
    monkeypatch.setattr(store, "BLOCK_ELEMENTS", 1)


def whole(matrix: MatrixStore) -> NDArray[np.float64]:
    return np.vstack([matrix.read_block(index) for index in range(matrix.block_count)])


@pytest.mark.parametrize("distinct", [0, 2])
def test_generated_matrices_have_the_documented_spectrum_and_strength(distinct: int, tmp_path: Path) -> None:
    matrix = write_decaying(str(tmp_path / "m"), rows=1024, cols=N, dtype="float64", distinct=distinct)
    s = np.linalg.svd(whole(matrix), compute_uv=False)
    np.testing.assert_allclose(s / s[0], SPECTRUM, rtol=1e-9)
    assert math.isclose(float(np.sqrt(np.mean(whole(matrix) ** 2))), STRENGTH, rel_tol=1e-9)
    assert math.isclose(optimal_residual(matrix, 10, distinct), float(np.linalg.norm(s[10:])), rel_tol=1e-9)


def test_repeated_blocks_are_equal_and_a_shorter_last_block_keeps_its_length(tmp_path: Path) -> None:
    A = whole(write_decaying(str(tmp_path / "m"), rows=900, cols=N, dtype="int16", distinct=2))
    np.testing.assert_array_equal(A[512:768], A[:256])
    assert A.shape == (900, N)
    assert np.ptp(A[768:]) > 0


def test_a_row_has_the_documented_keys_and_ratios_within_one_session() -> None:
    case = Case(rows=3000, cols=N, rank=8, contenders=("bare-read", "bare-blas", "scikit-learn", "numpy"))
    rows = {row["engine"]: row for row in bench_svd(None, [case])}
    documented = {"engine", "rows", "cols", "dtype", "rank", "oversample", "power_iters", "seconds", "cpu_seconds"}
    for row in rows.values():
        assert documented | {"peak_mib", "residual_over_optimal"} <= set(row)
    numpy, bare, read = rows["numpy"], rows["bare-blas"], rows["bare-read"]
    assert (numpy["rows"], numpy["cols"], numpy["dtype"], numpy["rank"]) == (3000, N, "float64", 8)
    assert math.isclose(numpy["over_bare_blas"], numpy["seconds"] / bare["seconds"])
    assert math.isclose(numpy["over_scikit_learn"], numpy["seconds"] / rows["scikit-learn"]["seconds"])
    bound = max(2 * read["seconds"], bare["seconds"])
    assert math.isclose(numpy["share_of_bound"], bound / numpy["seconds"])
    assert abs(numpy["residual_over_optimal"] - 1) < 1e-6
    assert abs(bare["residual_over_optimal"] - 1) < 1e-9
    assert 1 - 1e-9 < rows["scikit-learn"]["residual_over_optimal"] < 1.1
    assert read["residual_over_optimal"] is None


def test_every_peer_gives_a_matrix_of_rank_k_near_the_best_one() -> None:
    case = Case(rows=3000, cols=N, rank=8, contenders=PEERS)
    for row in bench_svd(None, [case]):
        assert 1 - 1e-9 < row["residual_over_optimal"] < 1.1


def test_rows_of_a_series_hold_the_differences_from_the_exact_factors(series: Path) -> None:
    rows = bench_svd(series, chosen_cases((), {"rank": 3, "contenders": ("numpy", "bare-blas")}, series=True))
    for row in rows:
        assert row["sigma"] < 1e-6
        assert row["angle"] < 1e-3
        assert row["hu_rms"] <= row["hu_max"] < 0.01


def test_the_page_holds_every_row_and_readable_pictures(tmp_path: Path) -> None:
    small = ["--rows", "700", "--cols", "12", "--rank", "3", "--engine", "numpy", "--engine", "bare-blas"]
    places = ["--page", str(tmp_path / "page"), "--json", str(tmp_path / "rows.json")]
    done = CliRunner().invoke(main, ["bench", "svd", *small, *places])
    assert done.exit_code == 0, done.output
    rows: list[dict[str, Any]] = json.loads((tmp_path / "rows.json").read_text())["rows"]
    text = (tmp_path / "page" / "svd.md").read_text()
    assert [row["engine"] for row in rows] == ["numpy", "bare-blas"]
    for row in rows:
        assert f"| {row['engine']} |" in text
    with Image.open(tmp_path / "page" / "speed.png") as picture:
        picture.verify()


def test_the_bounds_of_many_columns_are_those_of_the_randomized_method() -> None:
    case = Case(rows=300, cols=MOST_GRAM_COLUMNS + 1, dtype="int16", rank=4, oversample=4, power_iters=1)
    rows = {row["engine"]: row for row in bench_svd(None, [replace(case, contenders=(*BOUNDS, "numpy"))])}
    numpy, bare, read = rows["numpy"], rows["bare-blas"], rows["bare-read"]
    # q + 1 power iterations, and the pass that writes the sketch.
    assert math.isclose(numpy["share_of_bound"], max(3 * read["seconds"], bare["seconds"]) / numpy["seconds"])
    assert [row["residual_over_optimal"] for row in rows.values()] == [None] * 3


def test_by_default_all_cases_run_except_the_two_that_are_large() -> None:
    assert not {"out-of-core", "cohort"} & set(USUAL)
    assert {case.name for case in chosen_cases((), {}, series=False)} == set(USUAL)
    assert [case.name for case in chosen_cases(("out-of-core",), {}, series=False)] == ["out-of-core"]
    assert chosen_cases((), {"rows": 9}, series=False) == [Case(rows=9)]
    assert {case.dtype for case in CASES} == {"float64", "int16"}


@pytest.mark.parametrize(
    ("names", "own", "message"),
    [
        (("slow",), {}, "case slow is unknown"),
        ((), {"contenders": ("abacus",)}, "engine abacus is unknown"),
        (("growth",), {"rows": 9}, "--case is given, and options that describe another case"),
    ],
)
def test_unknown_cases_and_contenders_are_refused(names: tuple[str, ...], own: dict[str, Any], message: str) -> None:
    with pytest.raises(CtbasisError, match=message):
        chosen_cases(names, own, series=False)


def test_a_case_that_is_larger_than_the_disk_is_refused_before_it_is_generated() -> None:
    with pytest.raises(CtbasisError, match=r"case own needs .* GB of disk"):
        bench_svd(None, [Case(rows=1 << 40)])


def test_the_fastest_of_several_runs_counts_and_the_first_is_reported_too() -> None:
    pauses = [0.3, 0.05, 0.2]
    remaining = iter(pauses)
    prepared: list[int] = []

    def work() -> float:
        pause = next(remaining)
        time.sleep(pause)
        return pause

    result, row = measured(work, 3, before=lambda: prepared.append(1))
    assert result == pauses[-1]
    assert len(prepared) == len(pauses)
    assert pauses[1] <= row["seconds"] < row["first_seconds"]
    assert row["first_seconds"] >= pauses[0]
    assert "first_seconds" not in measured(lambda: None, 1)[1]
