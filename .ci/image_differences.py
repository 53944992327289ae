"""Lists how two builds of an image differ: files by layer with what differs, and fields of the configuration.

    python .ci/image_differences.py FIRST.tar SECOND.tar

Both are OCI archives. `make release` calls this when two builds of an image have different digests. The status is 1 if
there is a difference.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tarfile
from typing import IO, TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

SHOWN = 60
"""So many differences are listed; the rest is counted."""


class Entry(NamedTuple):
    """What a layer says of a file."""

    type: str
    mode: int
    owner: tuple[int, int]
    time: float
    size: int
    link: str
    content: str


class Image:
    """An image in an OCI archive."""

    def __init__(self, path: str) -> None:
        self._archive = tarfile.open(path)  # noqa: SIM115 - as long as the program
        (described,) = json.loads(self._blob("index.json"))["manifests"]
        manifest = json.loads(self._blob(_place(described["digest"])))
        self.layers: list[str] = [layer["digest"] for layer in manifest["layers"]]
        self.configuration: dict[str, Any] = json.loads(self._blob(_place(manifest["config"]["digest"])))

    def entries(self, layer: str) -> dict[str, Entry]:
        """Return the entries of a layer by path, in their order."""
        found: dict[str, Entry] = {}
        with tarfile.open(fileobj=self._file(_place(layer)), mode="r:*") as files:
            for one in files:
                content = files.extractfile(one) if one.isreg() else None
                digest = hashlib.file_digest(content, "sha256").hexdigest() if content else ""  # type: ignore[arg-type]
                kind = one.type.decode()
                found[one.name] = Entry(kind, one.mode, (one.uid, one.gid), one.mtime, one.size, one.linkname, digest)
        return found

    def _blob(self, name: str) -> bytes:
        return self._file(name).read()

    def _file(self, name: str) -> IO[bytes]:
        member = self._archive.extractfile(name)
        if member is None:
            sys.exit(f"release: the archive has no file {name}, which OCI archives have")
        return member


def _place(digest: str) -> str:
    """Return the name of a blob in the archive."""
    return "blobs/" + digest.replace(":", "/")


def _of_configuration(first: Any, second: Any, name: str) -> Iterator[str]:
    """Yield the fields that differ, but those that only repeat that a layer differs."""
    if isinstance(first, dict) and isinstance(second, dict):
        for key in sorted(first.keys() | second.keys()):
            if key != "diff_ids":
                yield from _of_configuration(first.get(key), second.get(key), f"{name}.{key}")
    elif isinstance(first, list) and isinstance(second, list) and len(first) == len(second):
        for number, (one, other) in enumerate(zip(first, second, strict=True), 1):
            yield from _of_configuration(one, other, f"{name}.{number}")
    elif first != second:
        yield f"{name}: {first!r}, then {second!r}"


def differences(first: Image, second: Image) -> Iterator[str]:
    """Yield one line for each difference."""
    yield from _of_configuration(first.configuration, second.configuration, "configuration")
    if len(first.layers) != len(second.layers):
        yield f"{len(first.layers)} layers, then {len(second.layers)}"
    for number, (one, other) in enumerate(zip(first.layers, second.layers, strict=False), 1):
        if one != other:
            yield from _of_layers(first.entries(one), second.entries(other), f"layer {number}")


def _of_layers(first: dict[str, Entry], second: dict[str, Entry], name: str) -> Iterator[str]:
    """Yield the files that differ, or that nothing differs but their order or the compression."""
    same = True
    for path in sorted(first.keys() | second.keys()):
        one, other = first.get(path), second.get(path)
        if one == other:
            continue
        same = False
        if one is None or other is None:
            yield f"{name}: /{path}: only in the {'second' if one is None else 'first'} build"
        else:
            fields = [field for field in Entry._fields if getattr(one, field) != getattr(other, field)]
            yield f"{name}: /{path}: another {', '.join(fields)}"
    if same:
        why = "compression" if list(first) == list(second) else "order"
        yield f"{name}: equal files, but another {why}"


def main() -> None:
    """Print the differences of the images that the command line names."""
    found = list(differences(*(Image(path) for path in sys.argv[1:3])))
    shown = found[:SHOWN]
    if len(found) > SHOWN:
        shown.append(f"and {len(found) - SHOWN} more differences")
    sys.stdout.writelines(f"{line}\n" for line in shown)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
