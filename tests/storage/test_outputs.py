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
from ctbasis.storage.outputs import Results, list_files, remove_remains, replaced, replaced_file
from ctbasis.storage.paths import refuse_overlap

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
    neighbours = ["out.partial", ".out.partial", ".out.former", f".out{outputs.WORK}mine"]
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
        if self.name == outputs.NEW:
            raise KeyboardInterrupt
        return renamed(self, target)

    monkeypatch.setattr(type(tmp_path), "rename", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", "second")
    assert tree(tmp_path) == {"out/below/result.txt": "first"}


REMOVERS = {
    "storage/outputs.py": "working folders that hold the owner file",
    "storage/stores.py": "stores that hold our mark",
    "steps/cleanup.py": "the workspace of a run",
    "sources/fetch.py": "unfinished downloads in the workspace of a run",
    "demo/s3server.py": "the temporary folder of the server",
    "bench/contenders.py": "the scratch folder of a measurement",
}
"""Modules that may remove whole folders, and which."""


def test_no_other_module_removes_folders_or_names_temporary_files_by_itself() -> None:
    root = Path(outputs.__file__).parents[1]
    texts = {path.relative_to(root).as_posix(): path.read_text() for path in root.rglob("*.py")}
    assert {name for name, text in texts.items() if "rmtree(" in text} <= set(REMOVERS)
    named = {name for name, text in texts.items() if re.search(r"[\"'.}](partial|former|tmp)[\"']", text)}
    # The chunks of an array have random names, so that two workers may write one.
    assert named <= {"storage/outputs.py", "storage/objects.py"}
