"""Output folders and files: written beside their target, put in its place at once, and never over a user's files.

Everything is written to a working folder beside the target, `.TARGET.ctbasis-work-ID`. Its name is unique, and a lock
on the owner file inside marks it as ours and as in use. When the content is complete, the working folder's content and
the target change places in one step (`renameat2` with RENAME_EXCHANGE). Three rules protect the user's files:

- Only a working folder that holds an owner file of ours is ever deleted.
- A target that exists is replaced only if it is empty or a result of ours with nothing else in it. The caller decides
  how to recognise a result; `Results` recognises a folder by the list of its files, in `.ctbasis-result.json`.
- One process at a time writes to a target; a second one is refused and told which process that is.

The kernel releases the lock of a process that dies, however it dies. The next call that writes beside such remains
finds their lock free and removes them. If the process died between the two renames that replace RENAME_EXCHANGE where
a file system has none, the target is put back first.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import sys
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, Self

from ctbasis.errors import CtbasisError
from ctbasis.printable import say
from ctbasis.storage.paths import absolute_path
from ctbasis.storage.working_folder import LOCK, WorkingFolder, identity, remove_remains, same_file

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

RESULT = ".ctbasis-result.json"
"""File in a result folder that lists the files which ctbasis wrote there."""

AT_FDCWD = -100
RENAME_NOREPLACE = 1
RENAME_EXCHANGE = 2


class Recognises(Protocol):
    """Recognises a folder that ctbasis wrote."""

    def foreign(self, folder: Path) -> Path | None:
        """Return a file below `folder` that ctbasis did not write, None if there is none."""
        ...


class Results:
    """Recognises the result folders that `list_files` marked: every file is in the list, with the size it had."""

    def foreign(self, folder: Path) -> Path | None:
        """Return a file that the folder's list does not name or that changed its size; without a list, any file."""
        listed = _listed_files(folder)
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if path.is_dir() and not path.is_symlink():
                continue
            if name != RESULT and (path.is_symlink() or listed.get(name) != path.stat().st_size):
                return path
        return None


class Nothing:
    """Recognises no folder: a target that exists must be empty."""

    def foreign(self, folder: Path) -> Path | None:
        """Return the first entry of the folder."""
        return next(iter(sorted(folder.iterdir())), None)


def list_files(folder: Path) -> None:
    """Write the list of all files below `folder` to `RESULT` in it, by which `Results` recognises the folder."""
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path != folder / RESULT
    }
    (folder / RESULT).write_text(json.dumps({"written_by": "ctbasis", "files": files}, indent=1) + "\n")


def _listed_files(folder: Path) -> dict[str, int]:
    try:
        files = json.loads((folder / RESULT).read_text(encoding="utf-8"))["files"]
        return {str(name): int(size) for name, size in files.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


@contextmanager
def replaced(targets: Sequence[Path], *, ours: Recognises) -> Iterator[list[Path]]:
    """Yield paths for the new content of `targets`; put it in place when the context ends without an error.

    Args:
        targets: Folders to write. A target that exists is replaced if it is empty or `ours`.
        ours: Recognises a folder that may be replaced.

    Yields:
        One path per target, in the same order; the caller creates a folder there. A path without one leaves its target
        as it is. The parent of the paths is a working folder that the caller may use as well.

    Raises:
        CtbasisError: A target is a file or holds files that are not ours, or another process writes to it.
        OSError: The file system refuses to write.
    """
    targets = [absolute_path(target) for target in targets]
    with _Locks() as locks:
        works = []
        try:
            for target in targets:
                target.parent.mkdir(parents=True, exist_ok=True)
                locks.take(target)
                remove_remains(target.parent)
                refuse_foreign(target, ours)
                works.append(_Work(target))
            yield [work.new for work in works]
            for work in works:
                if work.new.is_dir():
                    work.publish(ours)
        finally:
            for work in works:
                work.remove()


@contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of a folder that a process fills little by little; `replaced` takes the same lock of its targets.

    Args:
        target: The folder; the one above it exists.

    Raises:
        CtbasisError: Another process holds the lock.
        OSError: The file system refuses to write.
    """
    with _Locks() as locks:
        locks.take(absolute_path(target))
        yield


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` when the context ends without an error.

    Args:
        path: File to write, in a folder that exists.

    Raises:
        OSError: The file system refuses to write.
    """
    path = absolute_path(path)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.ctbasis")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, content: str | bytes) -> None:
    """Write `content` to the file `path` completely or not at all; its folder is created if it does not exist.

    Args:
        path: The file. A stream such as /dev/stdout is written to as it is.
        content: Bytes, or text that is encoded as UTF-8.

    Raises:
        CtbasisError: The file system refuses to write, or `path` is a folder.
    """
    encoded = content.encode() if isinstance(content, str) else content
    try:
        if path.exists() and not (path.is_file() or path.is_dir()):
            path.write_bytes(encoded)
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        with replaced_file(path) as temporary:
            temporary.write_bytes(encoded)
    except OSError as error:
        raise CtbasisError(
            f"{path} cannot be written ({error.strerror or error})",
            expected="the path of a file, in a folder with free space that this user may write to",
            cause="the disk is full or write-protected, or the path names a folder or lies below a file",
            remedy="choose another path, or free some space",
        ) from error


class _Work(WorkingFolder):
    """A working folder beside `target`."""

    def publish(self, ours: Recognises) -> None:
        """Put the new content in the target's place."""
        if not self.target.is_dir():
            _rename(self.new, self.target)
            return
        refuse_foreign(self.target, ours)
        _exchange(self.new, self.target, self.former)
        old = self.former if self.former.is_dir() else self.new
        if any(old.iterdir()) and ours.foreign(old) is not None:
            # Somebody wrote there since it was looked at.
            kept = self.target.with_name(f"{self.target.name}-former-{uuid.uuid4().hex[:12]}")
            old.rename(kept)
            say(f"{self.target} was changed during the run; its former content is kept as {kept}")


class _Locks:
    """Locks of targets, released when the context ends."""

    def __init__(self) -> None:
        self._held: list[tuple[Path, Any]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for path, file in reversed(self._held):
            path.unlink(missing_ok=True)
            file.close()

    def take(self, target: Path) -> None:
        """Lock `target` for this process.

        Raises:
            CtbasisError: Another process holds the lock.
        """
        path = target.with_name(f".{target.name}{LOCK}")
        while True:
            file = path.open("a+")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = _described(file.read())
                file.close()
                raise CtbasisError(
                    f"{target} is being written by {holder}",
                    expected="one process that writes to a folder",
                    remedy="wait until it ends, or choose another output folder",
                ) from None
            # The file may have been removed by its former holder between opening and locking it.
            if same_file(path, file):
                break
            file.close()
        file.truncate(0)
        json.dump(identity(), file)
        file.flush()
        self._held.append((path, file))


def _described(text: str) -> str:
    try:
        holder = json.loads(text)
        return f"process {int(holder['pid'])} on {holder['host']}, since {holder['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"


def refuse_foreign(target: Path, ours: Recognises) -> None:
    """Refuse a target that is a file, or a folder with a file that is not ours, as `replaced` does.

    Raises:
        CtbasisError: The target exists and may not be replaced.
    """
    if not target.exists():
        return
    if not target.is_dir():
        raise CtbasisError(f"{target} is a file", expected="a new folder, or one that ctbasis wrote")
    if not any(target.iterdir()) or (found := ours.foreign(target)) is None:
        return
    if isinstance(ours, Nothing):
        raise CtbasisError(
            f"{target} is not empty: it holds {found.name}",
            expected="a new or empty folder",
            remedy="choose another folder, or move what it holds elsewhere",
        )
    raise CtbasisError(
        f"{target} holds {found.relative_to(target)}, which ctbasis did not write or which was changed since",
        expected="a new or empty folder, or one that holds nothing but a former result of ctbasis, which is replaced",
        remedy="choose another folder, or move what it holds elsewhere",
    )


def _exchange(new: Path, target: Path, former: Path) -> None:
    """Let `new` and `target` change places; the target's former content is then at `new` or at `former`."""
    try:
        _rename(new, target, RENAME_EXCHANGE)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOSYS, errno.ENOTSUP}:
            raise
        target.rename(former)
        try:
            new.rename(target)
        except BaseException:
            if not target.exists():
                former.rename(target)
            raise


def _rename(source: Path, target: Path, flags: int = RENAME_NOREPLACE) -> None:
    """Rename by the kernel's renameat2; without it, where no exchange is asked for, by rename."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if sys.platform == "linux" else None
    if renameat2 is not None:
        if renameat2(AT_FDCWD, os.fsencode(source), AT_FDCWD, os.fsencode(target), flags) == 0:
            return
        code = ctypes.get_errno()
        if code not in {errno.EINVAL, errno.ENOSYS} or flags == RENAME_EXCHANGE:
            raise OSError(code, os.strerror(code), str(target))
    elif flags == RENAME_EXCHANGE:
        raise OSError(errno.ENOSYS, "no exchange of two names", str(target))
    source.rename(target)
