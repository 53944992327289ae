"""Paths that a user names: texts that no path can be, and places where nothing can be written."""

from __future__ import annotations

import re
import resource
from pathlib import Path

import pytest

import ctbasis
from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.artifacts import Results
from ctbasis.storage.outputs import write_file
from ctbasis.storage.paths import absolute_path, refuse_overlap


def test_a_text_that_no_path_can_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for place in ("a\x00b", str(tmp_path / "loop")):
        with pytest.raises(CtbasisError, match="is no path"):
            absolute_path(place)
        with pytest.raises(CtbasisError, match="is no path"):
            refuse_overlap(tmp_path / "out", [place])


def test_a_file_is_written_whole_with_its_folders(tmp_path: Path) -> None:
    write_file(tmp_path / "a" / "b" / "page.html", "new")
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["page.html"]
    assert (tmp_path / "a" / "b" / "page.html").read_text() == "new"


def test_a_file_that_the_disk_has_no_room_for_leaves_the_former_one(tmp_path: Path) -> None:
    (tmp_path / "metrics.json").write_text("{}")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The kernel refuses longer files to this process, as it does on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(CtbasisError, match=r"metrics\.json cannot be written"):
            Results(metrics={"text": "x" * 1000}, figure1=b"").save(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]
    assert (tmp_path / "metrics.json").read_text() == "{}"


WRITERS = {
    "storage/outputs.py": "the one writer",
    "report/output.py": "files of the report step, beside their targets",
    "matrix/ingest.py": "a file beside its target",
    "sources/fetch_index.py": "a file beside its target",
    "kubeflow/package.py": "a file beside its target, which the deployment reads too",
    "simulate/lists.py": "a working folder",
    "steps/cleanup.py": "KFP's path of an artifact",
    "steps/reconstruct.py": "KFP's path of an artifact",
    "demo/picture.py": "a working folder",
    "demo/demo.py": "a working folder",
    "kubeflow/lint/crds.py": "the project's own copies, for its developers",
    "bench/fuzz.py": "damaged files",
    "sources/listed.py": "a file in the working folder of a run",
    "cohort/results.py": "a result in a working folder, before it is put in place as a whole",
    "cohort/pipeline_steps.py": "the workspace of a run, and KFP's path of an artifact",
    "steps/job.py": "the workspace of a job of a run, and KFP's path of an artifact",
}
"""Modules that write files by `write_text` or `write_bytes`, and to which places."""


def test_no_other_module_writes_a_users_file_in_pieces() -> None:
    root = Path(ctbasis.__file__).parent
    texts = {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*.py")}
    assert {name for name, text in texts.items() if re.search(r"\.write_(text|bytes)\(", text)} == set(WRITERS)


def test_a_file_that_cannot_be_written_leaves_everything_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("ten years")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "folder", tmp_path / "file" / "page.html"):
        with pytest.raises(CtbasisError, match="cannot be written"):
            write_file(path, "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "ten years"
