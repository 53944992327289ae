"""The error report of the block engines: residual, upper bounds, and the number of passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from ctbasis.matrix import store
from ctbasis.svd import accuracy
from tests.svd.factoring import factored, orthonormality_error, with_spectrum

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctbasis.matrix.store import MatrixStore

    StoreMatrix = Callable[..., MatrixStore]

METHODS = ["exact", "randomized", "single-pass"]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give stores the smallest possible row blocks, 256 rows, so that small matrices have several."""
    monkeypatch.setattr(store, "BLOCK_ELEMENTS", 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rank", [3, 39, 40])
@pytest.mark.parametrize("method", METHODS)
def test_the_error_report_contains_the_residual_and_upper_bounds_of_the_other_errors(
    method: str, rank: int, dtype: str, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    A = with_spectrum(700, 1e4 / np.arange(1, 41))
    factors, U, spectrum = factored(
        store_matrix(A), tmp_path / "f", rank=rank, oversample=2, power_iters=0, method=method, dtype=dtype
    )
    report = spectrum.accuracy
    assert report is not None
    assert factors.accuracy == vars(report)
    E = A - np.asarray(U, float) @ factors.weights.T
    assert report.norm == pytest.approx(np.linalg.norm(A))
    assert report.residual == pytest.approx(np.linalg.norm(E), abs=report.rounding + 1e-7 * np.linalg.norm(A))
    assert np.linalg.norm(E, 2) <= report.spectral_error + report.rounding
    assert orthonormality_error(np.asarray(U, float)) <= report.basis_error + 1e-15
    assert report.weights_error == pytest.approx(orthonormality_error(factors.V))
    assert report.ratio == pytest.approx(spectrum.s[-1] / spectrum.s[0])


def test_the_bound_from_random_vectors_fails_as_often_as_stated() -> None:
    rng = np.random.default_rng(0)
    E = np.diag(np.concatenate([[1.0], np.full(9, 1e-3)]))
    failure, trials = 0.1, 2000
    t = accuracy.quantile(2, failure)
    missed = sum(np.linalg.norm(E @ rng.standard_normal((10, 2)), axis=0).max() / t < 1 for _ in range(trials))
    assert 0.07 < missed / trials < 0.13


def test_the_bound_from_the_normal_matrix_is_the_sharper_one() -> None:
    rng = np.random.default_rng(0)
    E = np.diag(1.0 / np.arange(1, 200))
    w = rng.standard_normal((199, accuracy.PROBE_COUNT))
    assert 1 <= accuracy.normal_norm_bound(E.T @ E @ w) < accuracy.norm_bound(E @ w) / 2


def test_each_method_needs_the_stated_number_of_passes(store_matrix: StoreMatrix, tmp_path: Path) -> None:
    matrix = store_matrix(with_spectrum(700, 1e4 / np.arange(1, 41)))
    passes = {}
    for name in METHODS:
        report = factored(matrix, tmp_path / "f", rank=5, power_iters=2, method=name)[2].accuracy
        assert report is not None
        passes[name] = report.passes
        assert report.bytes_read <= report.passes * 700 * 40 * 8
    assert passes == {"exact": 2, "randomized": 4, "single-pass": 1}


def test_a_randomized_run_with_small_singular_values_computes_qr_from_the_sketch_and_not_from_the_matrix(
    store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    s = 1e5 * np.geomspace(1, 1e-6, 24)
    report = factored(store_matrix(with_spectrum(900, s)), tmp_path / "f", rank=24, method="randomized")[2]
    assert "by tall-skinny QR" in report.note
    assert report.accuracy is not None
    # q + 2 passes, and one that measures the residual, for which the energy identity has no correct digits.
    assert (report.accuracy.passes, report.accuracy.residual_by) == (4, "one more pass over A and U")


@pytest.mark.parametrize("oversample", [0, 3, 20])
@pytest.mark.parametrize("power_iters", [0, 2])
def test_the_randomized_bound_of_the_spectral_error_combines_the_error_inside_and_outside_the_span(
    oversample: int, power_iters: int, store_matrix: StoreMatrix, tmp_path: Path
) -> None:
    s = 1e4 / np.arange(1, 81)
    A, k = with_spectrum(1000, s), 8
    factors, U, spectrum = factored(
        store_matrix(A), tmp_path / "f", rank=k, oversample=oversample, power_iters=power_iters, method="randomized"
    )
    assert spectrum.accuracy is not None
    error = np.linalg.norm(A - U @ factors.weights.T, 2)
    assert error <= spectrum.accuracy.spectral_error
    # The bound exceeds ||E||_2^2 by the factor (sum of sigma^4)^(1/2) / sigma_(l+1)^2 and the quantile of 8 numbers.
    following = s[k + oversample :]
    most = np.hypot(s[k], 3 * np.sum(following**4) ** 0.25 / accuracy.quantile() ** 0.5)
    assert spectrum.accuracy.spectral_error <= 1.2 * most
    if oversample == 20:
        assert spectrum.accuracy.spectral_error < 0.8 * spectrum.accuracy.residual
