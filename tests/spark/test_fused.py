"""Fused mode gives the factors of the staged mode from DICOM files, without a matrix store."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctbasis.dicom.deidentify.deidentification import Deidentification
from ctbasis.dicom.deidentify.pseudonyms import SALT
from ctbasis.errors import CtbasisError
from ctbasis.installed import LAYOUT
from ctbasis.matrix import columns as columns_module
from ctbasis.matrix import ingest as ingest_module
from ctbasis.matrix import store
from ctbasis.matrix.ingest import ingest
from ctbasis.matrix.store import MatrixStore
from ctbasis.parameters import SvdPlan
from ctbasis.simulate.awkward import enhanced_ct, stored_values, to_bytes
from ctbasis.sources.fetch import fetch
from ctbasis.spark.driver import Job
from ctbasis.spark.fused import Fused, files
from ctbasis.spark.fused_tasks import Column, decode_columns, read_headers
from ctbasis.svd.engines import engine_named
from ctbasis.svd.engines.spark import spark_context
from ctbasis.svd.factors import FactorStore, FactorWriter
from ctbasis.svd.plan import plan_factorization
from tests.dicom.deidentify.identity import MARK, leaks, plant, sentinels_in

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray
    from pydicom.dataset import FileDataset

    from ctbasis.demo.s3server import S3Server
    from tests.conftest import WriteSeries

pytestmark = [
    pytest.mark.java,
    pytest.mark.usefixtures("spark_application"),
    pytest.mark.filterwarnings("ignore:unclosed.*socket:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set row blocks to 256 rows, so that small slices have several."""
    monkeypatch.setattr(store, "BLOCK_ELEMENTS", 1)


def volume(slices: int = 21) -> NDArray[np.int16]:
    return np.random.default_rng(4).integers(-1100, 2000, (slices, 24, 40)).astype(np.int16)


def staged(folder: Path, scratch: Path, identity: Deidentification | None = None) -> tuple[FactorStore, dict[str, Any]]:
    ingest(folder, str(scratch / "m"), scratch / "qc.json", deidentification=identity)
    matrix = MatrixStore.open(str(scratch / "m"))
    plan = plan_factorization(
        engine="numpy", rows=matrix.rows, cols=matrix.cols, rank=5, oversample=5, power_iters=1, seed=0
    )
    writer = FactorWriter.create(str(scratch / "f"), matrix, rank=5, dtype="float64")
    spectrum = engine_named("numpy").load()(matrix, writer, plan)
    writer.finish(s=spectrum.s, V=spectrum.V, plan=plan, matrix=matrix)
    return FactorStore.open(str(scratch / "f")), json.loads((scratch / "qc.json").read_text())


def fused(
    source: str, uri: str, identity: Deidentification | None = None, **options: Any
) -> tuple[FactorStore, dict[str, Any]]:
    mode = Fused(spark_context(), source, deidentification=identity)
    try:
        plan = plan_factorization(
            engine="spark",
            rows=mode.matrix.rows,
            cols=mode.matrix.cols,
            **{"rank": 5, "oversample": 5, "power_iters": 1, "seed": 0, **options},
        )
        writer, spectrum = mode.factorize(uri, plan, dtype="float64")
        writer.finish(s=spectrum.s, V=spectrum.V, plan=plan, matrix=mode.matrix)
        return FactorStore.open(uri), mode.matrix.qc
    finally:
        mode.close()


def tall(factors: FactorStore) -> NDArray[Any]:
    return np.vstack([factors.read_block(index) for index in range(factors.block_count)])


def alike(one: FactorStore, other: FactorStore) -> None:
    np.testing.assert_allclose(one.s, other.s, rtol=1e-12)
    np.testing.assert_allclose(one.V, other.V, atol=1e-9)
    np.testing.assert_allclose(tall(one), tall(other), atol=1e-9)
    everything = slice(0, one.cols)
    np.testing.assert_array_equal(one.read_aside(everything), other.read_aside(everything))
    assert (one.series, one.image) == (other.series, other.image)
    assert [one.header(column) for column in range(one.cols)] == [other.header(column) for column in range(one.cols)]


def test_factors_headers_and_qc_equal_those_of_the_staged_mode(write_series: WriteSeries, tmp_path: Path) -> None:
    def padded(ds: FileDataset, z: int) -> None:
        if z % 2:
            ds.PixelPaddingValue = 40

    write_series(tmp_path / "ct", volume(), edit=padded)
    theirs, qc = staged(tmp_path / "ct", tmp_path)
    ours, report = fused(str(tmp_path / "ct"), str(tmp_path / "fused"))
    alike(ours, theirs)
    assert json.loads(json.dumps(report)) == qc


def test_the_driver_program_reads_slices_from_s3_and_writes_factors_to_s3(
    write_series: WriteSeries, tmp_path: Path, aws: S3Server, prefix: str
) -> None:
    write_series(tmp_path / "ct", volume())
    aws.put_folder(tmp_path / "ct", f"{prefix}/ct")
    theirs, qc = staged(tmp_path / "ct", tmp_path)
    # In a process of its own, because Spark's workers have the environment in which Spark was started.
    job = Job(
        SvdPlan.of(engine="spark", rank="5"),
        f"{prefix}/factors",
        source=f"{prefix}/ct",
        qc=str(tmp_path / "fused.json"),
        dtype="float64",
    )
    done = subprocess.run(
        [sys.executable, str(LAYOUT.package / "spark" / "driver.py"), *job.arguments()],
        env={**os.environ, "PYTHONPATH": LAYOUT.python_path(), "SPARK_LOCAL_IP": "127.0.0.1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    alike(FactorStore.open(f"{prefix}/factors"), theirs)
    assert json.loads((tmp_path / "fused.json").read_text()) == qc
    assert "passes over A" in done.stdout


def test_the_single_pass_method_works_in_fused_mode(write_series: WriteSeries, tmp_path: Path) -> None:
    write_series(tmp_path / "ct", volume())
    theirs, _ = staged(tmp_path / "ct", tmp_path)
    ours, _ = fused(str(tmp_path / "ct"), str(tmp_path / "fused"), method="single-pass", oversample=15)
    # 2k + p + 1 directions are more than the 21 columns, so the sketch is exact.
    np.testing.assert_allclose(ours.s, theirs.s, rtol=1e-9)
    np.testing.assert_allclose(tall(ours), tall(theirs), atol=1e-6)


def test_a_slice_with_truncated_pixels_is_set_aside_as_in_the_staged_mode(
    write_series: WriteSeries, tmp_path: Path
) -> None:
    paths = write_series(tmp_path / "ct", volume())
    paths[7].write_bytes(paths[7].read_bytes()[:-100])
    theirs, qc = staged(tmp_path / "ct", tmp_path)
    ours, report = fused(str(tmp_path / "ct"), str(tmp_path / "fused"))
    assert ours.cols == 20
    alike(ours, theirs)
    assert report["set_aside"] == qc["set_aside"]


def test_a_source_without_ct_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct" / "readme.txt").write_text("no DICOM")
    with pytest.raises(CtbasisError, match="no CT image among 1 files"):
        Fused(spark_context(), str(tmp_path / "ct"))


def test_frames_and_repeated_slices_are_columns_as_in_the_staged_mode(
    write_series: WriteSeries, tmp_path: Path
) -> None:
    ct = tmp_path / "ct"
    values = stored_values(18)
    for name in ("a", "b"):
        write_series(ct / name, values[:6].astype(np.int16), SeriesInstanceUID="1.2.3")
    (ct / "enhanced.dcm").write_bytes(to_bytes(enhanced_ct(values)))
    theirs, qc = staged(ct, tmp_path)
    ours, report = fused(str(ct), str(tmp_path / "fused"))
    assert ours.cols == 24
    alike(ours, theirs)
    assert json.loads(json.dumps(report)) == qc
    assert {entry["reason"] for entry in qc["set_aside"]} == {"same position and values as another slice"}


def test_headers_are_de_identified_in_the_process_that_reads_them(
    write_series: WriteSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(SALT, "the salt of this test")
    identity = Deidentification.of()
    ct = tmp_path / "ct"
    for path in write_series(ct / MARK, volume(), edit=plant):
        path.rename(path.with_name(f"{MARK}-{path.name}"))
    broken = ct / f"{MARK}-broken.dcm"
    broken.write_bytes(b"\0" * 128 + b"DICM" + f"{MARK} Zqfamily".encode() * 20)
    fetch(str(ct), tmp_path / "numbered", opaque=True)
    theirs, qc = staged(tmp_path / "numbered", tmp_path, identity)
    ours, report = fused(str(ct), str(tmp_path / "fused"), identity)
    alike(ours, theirs)
    assert json.loads(json.dumps(report)) == qc
    assert (report["deidentified"]["salt"], ours.cols) == ("given", 21)
    output = capfd.readouterr()
    assert leaks(tmp_path / "fused") == []
    assert list(sentinels_in(f"{report}{output.out}{output.err}".encode())) == []


@pytest.mark.parametrize("stage", ["headers", "values"])
def test_a_file_that_crashes_its_process_costs_one_slice_and_no_executor(
    write_series: WriteSeries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    write_series(tmp_path / "ct", volume())
    source = str(tmp_path / "ct")
    entries = files(source, opaque=False)
    slices = {result[0].file: result[0] for result in read_headers(source, None, entries) if isinstance(result, tuple)}
    module, name = (ingest_module, "read_slices") if stage == "headers" else (columns_module, "read_values")
    real = getattr(module, name)

    def deadly(folder: Path, entry: Any) -> Any:
        if getattr(entry, "file", entry) == "slice-0007.dcm":
            os.kill(os.getpid(), signal.SIGSEGV)
        return real(folder, entry)

    monkeypatch.setattr(module, name, deadly)
    if stage == "headers":
        aside = [result for result in read_headers(source, None, entries) if not isinstance(result, tuple)]
        assert [(entry.file, entry.broken) for entry in aside] == [("slice-0007.dcm", True)]
        assert "SIGSEGV" in aside[0].reason
    else:
        columns = [Column(index, slices[entry.key], entry) for index, entry in enumerate(entries)]
        ((results, pieces),) = decode_columns(source, "int16", 256, columns)
        assert [index for index, result in results if "SIGSEGV" in result.problem] == [7]
        assert pieces == []


def test_archives_are_refused_whether_objects_keep_their_names_or_not(tmp_path: Path) -> None:
    (tmp_path / "ct").mkdir()
    (tmp_path / "ct" / "SERIES.ZIP").write_bytes(b"PK")
    for opaque in (False, True):
        with pytest.raises(CtbasisError, match="1 of 1 objects of the source are archives"):
            files(str(tmp_path / "ct"), opaque=opaque)
