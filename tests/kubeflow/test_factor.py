"""`ctbasis factor`: factors computed from DICOM files, without a stored matrix."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner, Result

from ctbasis.cli import main
from ctbasis.errors import CtbasisError
from ctbasis.svd.factors import FactorStore

if TYPE_CHECKING:
    from pathlib import Path


def ctbasis(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.java
def test_dicom_is_factored_without_a_stored_matrix_and_reconstructed(series: Path, tmp_path: Path) -> None:
    done = ctbasis("factor", series, "--out", tmp_path / "basis", "--rank", 6, "--qc", tmp_path / "qc.json")
    assert done.exit_code == 0, done.output
    factors = FactorStore.open(str(tmp_path / "basis"))
    assert (factors.rank, factors.cols, factors.plan.engine) == (6, 6, "spark")
    assert len(json.loads((tmp_path / "qc.json").read_text())["slices"]) == 6
    ran = ctbasis("run", series, "--out", tmp_path / "run", "--rank", 6, "--ranks", 6, "--engine", "numpy")
    assert ran.exit_code == 0, ran.output
    np.testing.assert_allclose(factors.s, FactorStore.open(str(tmp_path / "run" / "basis")).s, rtol=1e-9)
    again = ctbasis("reconstruct", tmp_path / "basis", "--rank", 6, "--out", tmp_path / "denoised")
    assert again.exit_code == 0, again.output
    assert len(list((tmp_path / "denoised").glob("*.dcm"))) == 6


def test_invalid_options_are_refused_before_spark_starts(series: Path, tmp_path: Path) -> None:
    done = ctbasis("factor", series, "--out", tmp_path / "basis", "--retain", "uids")
    assert done.exit_code == 2
    assert "retain" in done.output
    assert not (tmp_path / "basis").exists()


@pytest.mark.java
def test_a_folder_without_ct_is_refused_with_the_number_of_files(tmp_path: Path) -> None:
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct" / "notes.txt").write_text("no image")
    done = ctbasis("factor", tmp_path / "ct", "--out", tmp_path / "basis")
    assert done.exit_code == 2, done.output
    assert "no CT image among 1 files" in done.output
    with pytest.raises(CtbasisError):
        FactorStore.open(str(tmp_path / "basis"))
