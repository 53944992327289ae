"""Working folders: marked as ours, locked while their process lives, and removed when it has died.

A working folder has a unique name and holds an owner file. The process that uses the folder holds a lock (`flock`) on
that file, and the kernel releases the lock when the process dies, however it dies. Whoever makes a working folder in
the same place later finds the lock free and removes what was left. Only a folder that holds an owner file of ours, and
that belongs to this user, is ever removed.

`ctbasis.storage.outputs` works in such folders beside its targets. `scratch_folder` makes one for temporary files.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import tempfile
import time
import uuid
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

WORK = ".ctbasis-work-"
"""Part of the name of every working folder, between the target's name and a random number."""

OWNER = "ctbasis-owner.json"
"""File in a working folder that marks it as ours; the process that uses the folder holds a lock on it."""

LOCK = ".ctbasis-lock"
"""End of the name of the lock file of a target."""

NEW, FORMER = "new", "former"
"""Entries of a working folder: the content that will become the target, and the target's former content."""

OURS = '{"written_by": "ctbasis"}'
"""Content that an empty lock file stands for: its process died before it wrote."""


class WorkingFolder:
    """A working folder, locked while this process lives.

    Attributes:
        folder: The working folder.
        target: Folder beside it that will get the content `new`.
        new: Path for the new content of the target.
        former: Path for the former content of the target.
    """

    def __init__(self, target: Path, mode: int = 0o777) -> None:
        """Make the working folder beside `target`.

        Args:
            target: Path in a folder that exists.
            mode: Permissions of the working folder.

        Raises:
            OSError: The file system refuses to write.
        """
        self.target = target
        while not self._made(target.with_name(f".{target.name}{WORK}{uuid.uuid4().hex[:12]}"), mode):
            pass
        self.new, self.former = self.folder / NEW, self.folder / FORMER

    def _made(self, folder: Path, mode: int) -> bool:
        """Make and lock a folder; return False if another process took it for remains before it was locked."""
        folder.mkdir(mode)
        try:
            owner = (folder / OWNER).open("w")
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner.close()
            return False
        if not same_file(folder / OWNER, owner):
            owner.close()
            return False
        json.dump({**identity(), "target": self.target.name}, owner)
        owner.flush()
        self.folder, self._owner = folder, owner
        return True

    def remove(self) -> None:
        """Remove the working folder."""
        with suppress(OSError):
            _remove(self.folder)
        self._owner.close()


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """Yield an empty folder for temporary files, which only this user can read; remove it when the context ends.

    It lies where Python's `tempfile` puts its files (TMPDIR, /tmp). Folders of processes that died without removing
    theirs are removed first: they may hold images of a patient.

    Args:
        purpose: Word that is part of the folder's name.

    Raises:
        OSError: The file system refuses to write.
    """
    place = Path(tempfile.gettempdir())
    remove_remains(place)
    work = WorkingFolder(place / purpose, mode=0o700)
    try:
        work.new.mkdir()
        yield work.new
    finally:
        work.remove()


def remove_remains(folder: Path) -> list[Path]:
    """Remove working folders in `folder` whose process died; put back a target that it had moved aside.

    Returns:
        The working folders that were removed.
    """
    removed = []
    for path in folder.glob(f".*{WORK}*"):
        # In use, not ours, or of another user: it stays.
        with suppress(OSError, ValueError, KeyError, TypeError):
            if _remove_remains_of(path):
                removed.append(path)
    for path in folder.glob(f".*{LOCK}"):
        with suppress(OSError, ValueError, AttributeError), path.open("r+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if json.loads(file.read() or OURS).get("written_by") == "ctbasis":
                path.unlink()
    return removed


def _remove_remains_of(work: Path) -> bool:
    if work.lstat().st_uid != os.geteuid():
        # Anybody may make a folder of such a name in /tmp.
        return False
    owner = work / OWNER
    if not owner.exists():
        # Its process died before it wrote the owner file. Only an empty folder can be removed so.
        work.rmdir()
        return True
    with owner.open("r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        text = file.read()
        if text:
            target = work.parent / str(json.loads(text)["target"])
            if target.parent != work.parent:
                return False
            _restore(work, target)
        elif [*work.iterdir()] != [owner]:
            return False
        _remove(work)
    return True


def _remove(work: Path) -> None:
    """Remove a working folder, its owner file last and alone: what cannot be removed now stays marked as ours."""
    for path in work.iterdir():
        if path.name != OWNER:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    if [path.name for path in work.iterdir()] == [OWNER]:
        (work / OWNER).unlink()
        work.rmdir()


def _restore(work: Path, target: Path) -> None:
    """Put a target back that a process had moved aside when it died: the new content if it was complete."""
    if not (work / FORMER).is_dir() or target.exists():
        return
    complete = (work / NEW).is_dir()
    (work / (NEW if complete else FORMER)).rename(target)


def identity() -> dict[str, Any]:
    """Return what names this process to the user of another one."""
    started = time.strftime("%Y-%m-%d %H:%M:%S")
    return {"written_by": "ctbasis", "host": socket.gethostname(), "pid": os.getpid(), "since": started}


def same_file(path: Path, file: Any) -> bool:
    """Return whether the open file is the one that the path names now."""
    try:
        there, here = path.stat(), os.fstat(file.fileno())
    except FileNotFoundError:
        return False
    return (there.st_dev, there.st_ino) == (here.st_dev, here.st_ino)
