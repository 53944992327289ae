"""`ctbasis process`: a folder in, a folder out, by the conventions of mercure and of a MONAI Application Package."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pydicom
import pytest

import ctbasis
from ctbasis.errors import CtbasisError
from ctbasis.node.container import Settings, process
from ctbasis.node.task import LEARN, REFUSE
from tests.scans import SLICES

if TYPE_CHECKING:
    from pathlib import Path

UNKNOWN_USER = 4711


def as_unknown_user() -> list[str]:
    """Return the start of a command line that runs a program as a user without a name; skip if there is no way."""
    start = ["unshare", "--user", f"--map-user={UNKNOWN_USER}", f"--map-group={UNKNOWN_USER}"]
    if shutil.which("unshare") is None or subprocess.run([*start, "true"], capture_output=True, check=False).returncode:
        pytest.skip("unshare cannot make a user namespace here")
    return start


def mercure(tmp_path: Path, series: Path, settings: dict[str, Any] | None = None) -> tuple[Path, Path]:
    """Return the folders that mercure mounts: images by its names with their tags, a task, and an empty output."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    out.mkdir()
    for path in series.iterdir():
        ds = pydicom.dcmread(path, stop_before_pixels=True)
        name = f"{ds.SeriesInstanceUID}#{ds.SOPInstanceUID}"
        shutil.copyfile(path, source / f"{name}.dcm")
        (source / f"{name}.tags").write_text(json.dumps({"Modality": "CT"}))
    task = {"id": "7", "process": {"module_name": "ctbasis", "settings": settings or {}}, "dispatch": {}}
    (source / "task.json").write_text(json.dumps(task))
    return source, out


def test_mercure_calls_it_as_any_user_without_arguments(scan: tuple[Path, Path], tmp_path: Path) -> None:
    series, basis = scan
    source, out = mercure(tmp_path, series, {"basis": str(basis), "if_no_basis_fits": "refuse"})
    # mercure sets the variables of MONAI as well. The user has no home and no name, and the root file system is read.
    variables = {
        "MERCURE_IN_DIR": str(source),
        "MERCURE_OUT_DIR": str(out),
        "HOLOSCAN_INPUT_PATH": str(source),
        "HOLOSCAN_OUTPUT_PATH": str(out),
        "HOME": "/",
        "TMPDIR": str(tmp_path),
        "MPLCONFIGDIR": str(tmp_path / "matplotlib"),
        "NUMBA_CACHE_DIR": str(tmp_path / "numba"),
    }
    kept = {name: value for name, value in os.environ.items() if name in {"PATH", "LANG", "OMP_NUM_THREADS"}}
    done = subprocess.run(
        [*as_unknown_user(), sys.executable, "-m", "ctbasis.cli", "process"],
        env={**kept, **variables},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    record = json.loads((out / "result.json").read_text())
    (volume,) = record["volumes"]
    assert volume["basis"] in done.stdout
    files = sorted(out.glob("*.dcm"))
    assert len(files) == SLICES == volume["slices"]
    for path in files:
        ds = pydicom.dcmread(path)
        assert path.name == f"{ds.SeriesInstanceUID}#{ds.SOPInstanceUID}.dcm"
        assert ds.SeriesInstanceUID == volume["SeriesInstanceUID"]
    assert sorted(path.name for path in out.iterdir()) == sorted([*(path.name for path in files), "result.json"])
    expected = ctbasis.denoise(ctbasis.read(series), basis=basis).hu
    assert abs(ctbasis.read(out).hu - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize(
    ("variables", "folders"),
    [
        ({"MERCURE_IN_DIR": "a", "MERCURE_OUT_DIR": "b", "HOLOSCAN_INPUT_PATH": "c"}, ("a", "b")),
        ({"HOLOSCAN_INPUT_PATH": "c", "HOLOSCAN_OUTPUT_PATH": "d"}, ("c", "d")),
        ({"MONAI_INPUTPATH": "e", "MONAI_OUTPUTPATH": "f"}, ("e", "f")),
    ],
)
def test_the_folders_are_those_of_the_router(variables: dict[str, str], folders: tuple[str, str]) -> None:
    settings = Settings.of(None, None, environment=variables)
    assert (str(settings.source), str(settings.out), settings.bases, settings.unfit) == (*folders, (), LEARN)


def test_arguments_prevail_over_the_task_and_the_task_over_the_folder_of_models(
    scan: tuple[Path, Path], tmp_path: Path
) -> None:
    series, basis = scan
    models = tmp_path / "models"
    shutil.copytree(basis, models / "sharp")
    (models / "notes").mkdir()
    variables = {"HOLOSCAN_MODEL_PATH": str(models)}
    source, out = mercure(tmp_path, series, {"basis": ["one", "two"], "if_no_basis_fits": REFUSE})
    asked = Settings.of(source, out, environment=variables)
    assert (asked.bases, asked.unfit) == (("one", "two"), REFUSE)
    given = Settings.of(source, out, ("three",), LEARN, environment=variables)
    assert (given.bases, given.unfit) == (("three",), LEARN)
    (source / "task.json").unlink()
    assert Settings.of(source, out, environment=variables).bases == (str(models / "sharp"),)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"process": 1}', '{"process": {"settings": {"if_no_basis_fits": "no"}}}']
)
def test_a_task_that_cannot_be_used_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "task.json").write_text(content)
    with pytest.raises(CtbasisError, match=r"task\.json"):
        Settings.of(tmp_path, tmp_path / "out", environment={})


def test_nothing_is_written_where_something_is_missing(scan: tuple[Path, Path], tmp_path: Path) -> None:
    series, _ = scan
    out = tmp_path / "out"
    empty = tmp_path / "empty"
    empty.mkdir()
    for settings, match in (
        (Settings(tmp_path / "missing", out), "is no folder"),
        (Settings(empty, out), "no object"),
        (Settings(series, out, unfit=REFUSE), "no stored basis fits"),
        (Settings(series, out, (str(tmp_path / "missing"),)), "missing"),
    ):
        with pytest.raises(CtbasisError, match=match):
            process(settings)
        assert list(out.iterdir() if out.exists() else ()) == []
    (out / "former").touch()
    with pytest.raises(CtbasisError, match="holds former"):
        process(Settings(series, out))
    with pytest.raises(CtbasisError, match="MERCURE_IN_DIR"):
        Settings.of(None, None, environment={})


def test_half_a_result_is_removed_when_the_disk_is_full(
    scan: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    series, basis = scan
    copied: list[object] = []

    def copyfile(source: Path, target: Path) -> None:
        if len(copied) == SLICES - 1:
            raise OSError(28, "No space left on device")
        copied.append(target)
        target.write_bytes(source.read_bytes())

    monkeypatch.setattr(shutil, "copyfile", copyfile)
    with pytest.raises(CtbasisError, match="No space left"):
        process(Settings(series, tmp_path / "out", (str(basis),)))
    assert list((tmp_path / "out").iterdir()) == []
