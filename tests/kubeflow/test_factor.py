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


@pytest.fixture
def no_spark(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no Spark application be launched."""

    def launched(*_arguments: object, **_options: object) -> None:
        raise AssertionError("Spark was started")

    monkeypatch.setattr("ctbasis.spark.launch.launch", launched)


@pytest.mark.usefixtures("no_spark")
def test_places_that_cannot_be_read_or_written_are_refused_before_spark_starts(series: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("three years of work")
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / "ct.zip").write_bytes(b"PK")
    for source, out, said in (
        (tmp_path / "nowhere", tmp_path / "basis", "nowhere"),
        (tmp_path / "empty", tmp_path / "basis", "the source holds no file"),
        (tmp_path / "archives", tmp_path / "basis", "1 of 1 objects of the source are archives"),
        (series, tmp_path / "mine", "thesis.txt"),
        (series, series / "basis", "lie in each other"),
        ("ftp://host/ct", tmp_path / "basis", "unknown URI scheme"),
    ):
        done = ctbasis("factor", source, "--out", out)
        assert (done.exit_code, said in done.output) == (2, True), done.output
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "three years of work"
    with pytest.raises(AssertionError, match="Spark was started"):
        CliRunner().invoke(main, ["factor", str(series), "--out", str(tmp_path / "basis")], catch_exceptions=False)


@pytest.mark.java
def test_a_folder_without_ct_is_refused_with_the_number_of_files(tmp_path: Path) -> None:
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct" / "notes.txt").write_text("no image")
    done = ctbasis("factor", tmp_path / "ct", "--out", tmp_path / "basis")
    assert done.exit_code == 2, done.output
    assert "no CT image among 1 files" in done.output
    with pytest.raises(CtbasisError):
        FactorStore.open(str(tmp_path / "basis"))
