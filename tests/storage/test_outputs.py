"""Output folders are put in place at once, and nothing that is not ours is ever touched."""

from __future__ import annotations

import errno
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.storage import outputs
from ctbasis.storage.outputs import Results, list_files, replaced, replaced_file
from ctbasis.storage.paths import refuse_overlap
from ctbasis.storage.working_folder import NEW, OWNER, WORK, remove_remains, scratch_folder

WRITER = """
import sys, time
from pathlib import Path
from ctbasis.storage import outputs
if sys.argv[3] == "plain":
    def no_exchange(source, target, flags=outputs.RENAME_NOREPLACE):
        if flags == outputs.RENAME_EXCHANGE:
            raise OSError(22, "Invalid argument")
        Path(source).rename(target)
    outputs._rename = no_exchange
print("ready", flush=True)
for round in range(1000):
    with outputs.replaced([Path(sys.argv[1])], ours=outputs.Results()) as (new,):
        new.mkdir()
        for number in range(8):
            (new / str(number)).write_text(sys.argv[2] + str(round))
        outputs.list_files(new)
"""
"""Writes results to one folder, one after the other, until it is killed."""


def write(out: Path, text: str) -> None:
    with replaced([out], ours=Results()) as (new,):
        (new / "below").mkdir(parents=True)
        (new / "below" / "result.txt").write_text(text)
        list_files(new)


class HalfwayError(Exception):
    """An error in the middle of writing."""


def write_half(out: Path, *, also: Path | None = None) -> None:
    with replaced([out], ours=Results()) as (new,):
        new.mkdir()
        if also is None:
            raise HalfwayError
        also.write_text("precious")


def write_half_a_file(path: Path) -> None:
    with replaced_file(path) as temporary:
        temporary.write_text("half")
        raise HalfwayError


def tree(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != outputs.RESULT
    }


def test_a_new_result_replaces_a_former_one_and_leaves_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "out", "first")
    write(tmp_path / "out", "second")
    assert tree(tmp_path) == {"out/below/result.txt": "second"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_an_empty_folder_is_taken_and_a_missing_parent_is_made(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", "text")
    write(tmp_path / "a" / "b", "text")
    assert tree(tmp_path) == {"empty/below/result.txt": "text", "a/b/below/result.txt": "text"}


@pytest.mark.parametrize("name", ["thesis.txt", "below/model.bin", ".hidden"])
def test_a_former_result_with_a_file_of_the_users_is_refused_by_the_files_name(tmp_path: Path, name: str) -> None:
    write(tmp_path / "out", "first")
    (tmp_path / "out" / name).write_text("precious")
    before = tree(tmp_path)
    with pytest.raises(CtbasisError, match=name):
        write(tmp_path / "out", "second")
    assert tree(tmp_path) == before


def test_a_result_file_that_the_user_changed_or_a_link_in_its_place_is_not_ours(tmp_path: Path) -> None:
    for change in (lambda path: path.write_text("notes of my own"), lambda path: (path.unlink(), path.symlink_to("x"))):
        out = tmp_path / str(len([*tmp_path.iterdir()]))
        write(out, "first")
        change(out / "below" / "result.txt")
        with pytest.raises(CtbasisError, match=r"result\.txt, which ctbasis did not write or which was changed"):
            write(out, "second")


def test_a_folder_that_merely_holds_files_of_a_results_names_is_not_ours(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "denoised").mkdir(parents=True)
    (out / "metrics.json").write_text("{}")
    with pytest.raises(CtbasisError, match=r"metrics\.json"):
        write(out, "text")
    assert tree(out) == {"metrics.json": "{}"}


def test_neighbours_whose_names_look_like_working_folders_stay(tmp_path: Path) -> None:
    neighbours = ["out.partial", ".out.partial", ".out.former", f".out{WORK}mine"]
    for name in neighbours:
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.txt").write_text("precious")
    write(tmp_path / "out", "text")
    write(tmp_path / "out", "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*neighbours, "out"])
    assert [(tmp_path / name / "notes.txt").read_text() for name in neighbours] == ["precious"] * len(neighbours)


def test_an_error_leaves_the_former_result_and_nothing_else(tmp_path: Path) -> None:
    write(tmp_path / "out", "first")
    with pytest.raises(HalfwayError):
        write_half(tmp_path / "out")
    assert tree(tmp_path) == {"out/below/result.txt": "first"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_the_user_writes_into_a_former_result_during_the_run_is_not_lost(tmp_path: Path) -> None:
    write(tmp_path / "out", "first")
    with pytest.raises(CtbasisError, match=r"notes\.txt"):
        write_half(tmp_path / "out", also=tmp_path / "out" / "notes.txt")
    assert tree(tmp_path) == {"out/below/result.txt": "first", "out/notes.txt": "precious"}


def test_a_second_writer_is_told_who_writes(tmp_path: Path) -> None:
    with (
        replaced([tmp_path / "out"], ours=Results()),
        pytest.raises(CtbasisError, match=rf"is being written by process {os.getpid()} on "),
        replaced([tmp_path / "out"], ours=Results()),
    ):
        pass
    assert [*tmp_path.iterdir()] == []


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("first")
    with pytest.raises(HalfwayError):
        write_half_a_file(tmp_path / "page.html")
    assert tree(tmp_path) == {"page.html": "first"}
    with replaced_file(tmp_path / "page.html") as temporary:
        temporary.write_text("second")
    assert tree(tmp_path) == {"page.html": "second"}


def test_an_input_within_the_output_folder_and_the_other_way_round_are_refused(tmp_path: Path) -> None:
    (tmp_path / "ct" / "series").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "ct")
    for out, given in (("ct", "ct/series"), ("ct/series/out", "ct/series"), ("ct", "ct"), ("link", "ct/series")):
        for form in (str(tmp_path / given), f"file://{tmp_path / given}"):
            with pytest.raises(CtbasisError, match="lie in each other"):
                refuse_overlap(tmp_path / out, [form])
    refuse_overlap(tmp_path / "ct2", [tmp_path / "ct", "s3://bucket/ct2", ""])


@pytest.mark.parametrize("way", ["exchange", "plain"])
def test_a_writer_that_is_killed_leaves_the_former_or_the_new_result(tmp_path: Path, way: str) -> None:
    drawn = random.Random(7)
    for round_ in range(25):
        out = tmp_path / "out"
        with subprocess.Popen([sys.executable, "-c", WRITER, out, f"{round_}-", way], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(drawn.uniform(0, 0.05))
            writer.send_signal(signal.SIGKILL)
        remove_remains(tmp_path)
        assert {path.name for path in tmp_path.iterdir()} <= {"out"}
        if out.exists():
            texts = set(tree(out).values())
            assert len(texts) == 1
            assert len(tree(out)) == 8
            assert Results().foreign(out) is None
    assert out.exists()


def test_an_interrupt_between_the_two_renames_puts_the_former_result_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "out", "first")
    monkeypatch.setattr(outputs, "_rename", lambda *_: (_ for _ in ()).throw(OSError(errno.EINVAL, "no exchange")))
    renamed = type(tmp_path).rename

    def interrupted(self: Path, target: Path) -> Path:
        if self.name == NEW:
            raise KeyboardInterrupt
        return renamed(self, target)

    monkeypatch.setattr(type(tmp_path), "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", "second")
    assert tree(tmp_path) == {"out/below/result.txt": "first"}


REMOVERS = {
    "storage/working_folder.py": "working folders that hold the owner file",
    "storage/stores.py": "stores that hold our mark",
    "steps/cleanup.py": "the workspace of a run",
    "sources/fetch.py": "unfinished downloads in the workspace of a run",
    "demo/s3server.py": "the temporary folder of the server",
    "bench/contenders.py": "the scratch folder of a measurement",
    "cohort/denoise.py": "folders in the workspace of a job, which lies in the working folder of the run",
    "cohort/dispatch.py": "the workspace of a job",
    "cohort/results.py": "folders in the workspace of a job, as in cohort/denoise.py",
    "steps/job.py": "the workspace of a job of a pipeline run, and an artifact of a step that failed",
    "node/service.py": "folders of a job in the state folder of the node, which holds the node's mark",
}
"""Modules that may remove whole folders, and which."""


def test_no_other_module_removes_folders_or_names_temporary_files_by_itself() -> None:
    root = Path(outputs.__file__).parents[1]
    texts = {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*.py")}
    assert {name for name, text in texts.items() if "rmtree(" in text} <= set(REMOVERS)
    named = {name for name, text in texts.items() if re.search(r"[\"'.}](partial|former|tmp)[\"']", text)}
    # The chunks of an array have random names, so that two workers may write one.
    assert named <= {"storage/working_folder.py", "storage/objects.py"}


SCRATCH_USER = """
import os, sys, time
from ctbasis.storage.working_folder import scratch_folder
with scratch_folder("test") as folder:
    (folder / "below").mkdir()
    (folder / "below" / "image.dcm").write_text("a patient's")
    print(folder, flush=True)
    time.sleep(60)
"""
"""Makes a folder for temporary files and waits in it until it is killed."""


@pytest.fixture
def temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the temporary files of this process and of those that it starts lie in a folder of the test."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temporary"))
    monkeypatch.setattr("tempfile.tempdir", None)
    return tmp_path / "temporary"


def test_only_the_user_can_read_a_folder_for_temporary_files_and_it_is_removed(temporary_files: Path) -> None:
    with scratch_folder("test") as folder:
        (folder / "image.dcm").write_text("a patient's")
        (work,) = temporary_files.iterdir()
        assert folder.parent == work
        assert work.stat().st_mode & 0o777 == 0o700
    assert [*temporary_files.iterdir()] == []


def test_the_temporary_files_of_a_killed_process_are_removed_by_the_next_one(temporary_files: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SCRATCH_USER], stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None
        image = Path(user.stdout.readline().strip()) / "below" / "image.dcm"
        with scratch_folder("other"):
            assert image.exists()
        user.kill()
    assert image.exists()
    with scratch_folder("other") as folder:
        assert [*temporary_files.iterdir()] == [folder.parent]


def test_a_folder_of_another_user_is_not_removed(temporary_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = temporary_files / f".x{WORK}y"
    planted.mkdir()
    (planted / OWNER).write_text('{"written_by": "ctbasis", "target": "x"}')
    with monkeypatch.context() as other:
        other.setattr("os.geteuid", lambda: os.getuid() + 1)
        assert remove_remains(temporary_files) == []
        assert (planted / OWNER).exists()
    assert remove_remains(temporary_files) == [planted]


def test_what_cannot_be_removed_stays_marked_as_ours(temporary_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as hindered, scratch_folder("test") as folder:
        hindered.setattr("shutil.rmtree", lambda *_args, **_options: None)
        work = folder.parent
    assert {path.name for path in work.iterdir()} == {OWNER, NEW}
    assert remove_remains(temporary_files) == [work]
    assert [*temporary_files.iterdir()] == []


TEMPORARY = {
    "storage/working_folder.py": "the place of temporary files",
    "matrix/columns.py": "a file without a name, which the kernel removes",
    "kubeflow/local.py": "the place of temporary files, which the watchdog clears",
    "cohort/run.py": "the place of temporary files, which the watchdog clears",
    "kubeflow/package.py": "a compiled pipeline, which has no data of a patient",
    "demo/demo.py": "a phantom",
    "demo/s3server.py": "the objects of the demo's server, which are a phantom's",
}
"""Modules beside the bench that use `tempfile`, and for what; `scratch_folder` is for all else."""


def test_temporary_files_with_data_of_a_patient_lie_in_folders_that_are_removed_after_a_kill() -> None:
    root = Path(outputs.__file__).parents[1]
    texts = {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*.py")}
    using = {name for name, text in texts.items() if re.search(r"^import tempfile|^from tempfile", text, re.MULTILINE)}
    assert {name for name in using if not name.startswith("bench/")} == set(TEMPORARY)
