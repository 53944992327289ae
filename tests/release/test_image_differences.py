"""`.ci/image_differences.py` says why two builds of an image have different digests."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

PROGRAM = Path(__file__).parents[2] / ".ci" / "image_differences.py"
PASSWD = ("etc/passwd", b"root", 0)


def layer(files: Iterable[tuple[str, bytes, int]]) -> bytes:
    """Return a compressed layer of files, each a path, its content and its time."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, content, time in files:
            member = tarfile.TarInfo(path)
            member.size, member.mtime = len(content), time
            archive.addfile(member, io.BytesIO(content))
    return gzip.compress(packed.getvalue(), mtime=0)


def image(path: Path, *files: tuple[str, bytes, int], **configuration: object) -> Path:
    """Write an OCI archive of two layers, of which the first never changes."""
    layers = [layer([PASSWD]), layer(files)]
    config = json.dumps({"config": configuration}).encode()
    blobs = {f"sha256:{hashlib.sha256(blob).hexdigest()}": blob for blob in (config, *layers)}
    first, *rest = blobs
    manifest = json.dumps({"config": {"digest": first}, "layers": [{"digest": name} for name in rest]}).encode()
    name = f"sha256:{hashlib.sha256(manifest).hexdigest()}"
    index = json.dumps({"manifests": [{"digest": name}]}).encode()
    with tarfile.open(path, "w") as archive:
        for place, content in {**blobs, name: manifest}.items():
            _add(archive, "blobs/" + place.replace(":", "/"), content)
        _add(archive, "index.json", index)
    return path


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def compared(first: Path, second: Path) -> tuple[int, list[str]]:
    command: list[Any] = [sys.executable, PROGRAM, first, second]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def test_equal_images_have_no_differences(tmp_path: Path) -> None:
    files = [("usr/a", b"a", 0), ("usr/b", b"b", 0)]
    first, second = (image(tmp_path / name, *files, User="185") for name in ("first.tar", "second.tar"))
    assert compared(first, second) == (0, [])


def test_each_file_that_differs_is_named_with_what_differs_in_it(tmp_path: Path) -> None:
    first = image(
        tmp_path / "first.tar", ("usr/a", b"a", 0), ("usr/b", b"b", 0), ("usr/gone", b"", 0), Env=["A=1", "B=1"]
    )
    second = image(
        tmp_path / "second.tar", ("usr/a", b"A", 0), ("usr/b", b"b", 7), ("usr/new", b"", 0), Env=["A=1", "B=2"]
    )
    assert compared(first, second) == (
        1,
        [
            "configuration.config.Env.2: 'B=1', then 'B=2'",
            "layer 2: /usr/a: another content",
            "layer 2: /usr/b: another time",
            "layer 2: /usr/gone: only in the first build",
            "layer 2: /usr/new: only in the second build",
        ],
    )


def test_equal_files_in_another_order_are_a_difference_of_the_layer(tmp_path: Path) -> None:
    a, b = ("usr/a", b"a", 0), ("usr/b", b"b", 0)
    status, lines = compared(image(tmp_path / "first.tar", a, b), image(tmp_path / "second.tar", b, a))
    assert status == 1
    assert lines == ["layer 2: equal files, but another order"]


def test_many_differences_are_counted(tmp_path: Path) -> None:
    first = image(tmp_path / "first.tar", *((f"usr/{number}", b"1", 0) for number in range(100)))
    second = image(tmp_path / "second.tar", *((f"usr/{number}", b"2", 0) for number in range(100)))
    status, lines = compared(first, second)
    assert status == 1
    assert len(lines) == 61
    assert lines[-1] == "and 40 more differences"
