"""Damaged and hostile stores, drawn from a seed: what disks, copies and other programs can leave, and what they forge.

A case is a store and a change to it. A *damage* changes the bytes of files and nothing that vouches for them. A
*forgery* is the work of a program that knows the layout: it changes metadata or values and makes the checksums and the
manifests fit.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.storage.array_layout import ROOT, crc32c, encode_json
from ctbasis.storage.array_store import ArrayStore
from ctbasis.storage.root import sign
from ctbasis.storage.schemas import SCHEMAS, VERSION
from ctbasis.storage.stored_array import StoredArray

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    Change = Callable[[Path, random.Random], str]


def files(store: Path) -> list[Path]:
    """Return the files of a store, sorted."""
    return sorted(path for path in store.rglob("*") if path.is_file())


def _named(store: Path, path: Path) -> str:
    return path.relative_to(store).as_posix()


def _edit(store: Path, rng: random.Random, change: Callable[[bytes], bytes]) -> str:
    path = rng.choice(files(store))
    path.write_bytes(change(path.read_bytes()))
    return _named(store, path)


def missing(store: Path, rng: random.Random) -> str:
    """Delete a file."""
    path = rng.choice(files(store))
    path.unlink()
    return _named(store, path)


def missing_folder(store: Path, rng: random.Random) -> str:
    """Delete a folder, such as all chunks of an array."""
    path = rng.choice(sorted(path for path in store.rglob("*") if path.is_dir()))
    shutil.rmtree(path)
    return _named(store, path)


def truncated(store: Path, rng: random.Random) -> str:
    """Cut a file short."""
    return _edit(store, rng, lambda content: content[: rng.randrange(len(content))])


def longer(store: Path, rng: random.Random) -> str:
    """Append bytes to a file; white space at the end of JSON would be no damage."""
    return _edit(store, rng, lambda content: content + rng.randbytes(rng.randint(1, 5000)) + b"}")


def flipped(store: Path, rng: random.Random) -> str:
    """Invert some bits of a file."""

    def change(content: bytes) -> bytes:
        changed = bytearray(content)
        for _ in range(rng.randint(1, 4)):
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
        return bytes(changed)

    return _edit(store, rng, change)


def zeroed(store: Path, rng: random.Random) -> str:
    """Replace a piece of a file by zeros, as a disk does that lost a block."""

    def change(content: bytes) -> bytes:
        first = rng.randrange(len(content))
        return content[:first] + bytes(min(4096, len(content) - first)) + content[first + 4096 :]

    return _edit(store, rng, change)


def swapped(store: Path, rng: random.Random) -> str:
    """Exchange two files."""
    one, other = rng.sample(files(store), 2)
    contents = one.read_bytes(), other.read_bytes()
    one.write_bytes(contents[1])
    other.write_bytes(contents[0])
    return f"{_named(store, one)} and {_named(store, other)}"


def folder_in_place_of_a_file(store: Path, rng: random.Random) -> str:
    """Replace a file by a folder of its name."""
    path = rng.choice(files(store))
    path.unlink()
    path.mkdir()
    return _named(store, path)


def something_else_in_place_of_a_file(store: Path, rng: random.Random) -> str:
    """Replace a file by a FIFO, a circle of links, a link to a device or to nothing, or a sparse file of 1 TB."""
    path = rng.choice(files(store))
    path.unlink()
    kind = rng.choice(("fifo", "circle", "/dev/zero", "/dev/null", "nowhere", "sparse"))
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "sparse":
        path.touch()
        os.truncate(path, 1 << 40)
    else:
        path.symlink_to(path if kind == "circle" else kind)
    return f"{_named(store, path)} is {kind}"


DAMAGES: tuple[Change, ...] = (
    missing,
    missing_folder,
    truncated,
    longer,
    flipped,
    zeroed,
    swapped,
    folder_in_place_of_a_file,
    something_else_in_place_of_a_file,
)
"""Changes of one store alone; `of_another_run` needs a second store."""


def of_another_run(store: Path, other: Path, rng: random.Random) -> str:
    """Replace a file, or all files of an array, by those of another run."""
    path = rng.choice([path for path in files(store) if (other / _named(store, path)).exists()])
    whole = [path] if rng.random() < 0.5 else files(path.parent)
    for one in whole:
        if (other / _named(store, one)).exists():
            shutil.copyfile(other / _named(store, one), one)
    return f"{len(whole)} files at {_named(store, path)}"


# Forgeries. The text that is returned says what was forged.

JSON_BOMBS: dict[str, bytes] = {
    "nested lists": b"[" * 200_000 + b"]" * 200_000,
    "nested objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "an open list": b"[" * 1_000_000,
    "a number of 5000 digits": b'{"attributes": {"version": ' + b"9" * 5000 + b"}}",
    "a number of 10^400": b'{"attributes": {"version": 1e400}}',
    "a list": b"[]",
    "null": b"null",
    "text": b'"zarr"',
    "UTF-16": '{"zarr_format": 3}'.encode("utf-16"),
    "no UTF-8": b'{"attributes": "\xff\xfe"}',
    "NUL bytes": bytes(1000),
    "half a surrogate": b'{"attributes": {"kind": "\\ud800"}}',
    "a megabyte of spaces": b" " * 1_000_000,
    "nothing": b"",
}
"""Contents in place of metadata."""

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 10**9, 10**18, 10**400, 1e308, float("nan"), float("inf"), "", "text", "../../etc/passwd",
    "x" * 100_000, "\x1b[2J\n", [], [[]], [None], [-1, -1], [10**9] * 3, ["a"] * 3, {}, {"a": {}}, [{"first": 1}],
)  # fmt: skip
"""Values in place of an attribute."""

KEYS = (
    "../outside", "A/../../outside", "/etc/passwd", "", ".", "..", "A/", "c/0/0", "zarr.json", "sigma-0", "sigma--1",
    "sigma-99999999999", "texture-01", "A\n", "A\x00", "\u202eA",
)  # fmt: skip
"""Names in place of that of an array in the manifest."""


def json_bomb(store: Path, rng: random.Random) -> str:
    """Replace metadata by a bomb, and enter it into the manifest."""
    name, content = rng.choice(sorted(JSON_BOMBS.items()))
    path = rng.choice([path for path in files(store) if path.name == ROOT])
    path.write_bytes(content)
    _enter(store, path)
    return f"{_named(store, path)}: {name}"


def root_attribute(store: Path, rng: random.Random) -> str:
    """Change or remove an attribute of the root, or one within it."""
    document = json.loads((store / ROOT).read_bytes())
    place = document["attributes"]
    name = rng.choice(sorted(set(place) - {"checksum"}))
    inner = place[name][0] if isinstance(place[name], list) and place[name] else place[name]
    if isinstance(inner, dict) and inner and rng.random() < 0.6:
        place, name = inner, rng.choice(sorted(inner))
    value = rng.choice([*VALUES, "gone"])
    if value == "gone":
        del place[name]
    else:
        place[name] = value
    _write_root(store, document)
    return f"{name} is {str(value)[:30]!r}"


def manifest_name(store: Path, rng: random.Random) -> str:
    """Rename or add an entry of the root's manifest."""
    document = json.loads((store / ROOT).read_bytes())
    manifest = document["attributes"]["manifest"]
    entry = manifest[rng.choice(sorted(manifest))]
    if rng.random() < 0.5:
        del manifest[rng.choice(sorted(manifest))]
    name = rng.choice(KEYS)
    manifest[name] = entry
    _write_root(store, document)
    return f"manifest names {name!r}"


def duplicate_name(store: Path, rng: random.Random) -> str:
    """Write an attribute of the root twice, with two values."""
    content = (store / ROOT).read_bytes()
    name = rng.choice(("attributes", "zarr_format", "node_type"))
    doubled = content.replace(b"{", b'{"' + name.encode() + b'": {"kind": "other"}, ', 1)
    (store / ROOT).write_bytes(doubled)
    return f"{name} twice"


def array_metadata(store: Path, rng: random.Random) -> str:
    """Change the metadata of an array: shape, dtype, chunk grid, codecs, fill value, manifest."""
    path = rng.choice([path for path in files(store) if path.name == ROOT and path.parent != store])
    document = json.loads(path.read_bytes())
    if document["node_type"] != "array":
        return root_attribute(store, rng)
    shape, grid = document["shape"], document["chunk_grid"]["configuration"]
    size = rng.choice((-1, 0, 10**9, 10**18, 1.5, "6", None, True))
    listed = document["attributes"]["manifest"]
    manifests = (None, [], {"crc32c": "zz"}, {"crc32c": ""}, {"crc32c": "00" * 10**5}, {**listed, "crc32c": "00000000"})
    codecs = ([], None, [{"name": "gzip"}], document["codecs"] * 2, [{"name": "pickle"}])
    fills = [fill for fill in (0, "NaN", None, 7, "0x7fc0", []) if fill != document["fill_value"]]
    along = rng.randrange(len(shape))
    one_more = [*shape[:along], size, *shape[along + 1 :]]
    changes: dict[str, dict[str, Any]] = {
        "size": {"shape": one_more},
        "all sizes": {"shape": [size] * len(shape), "chunk_grid": _grid([size] * len(shape))},
        "dimensions": {"shape": shape * rng.choice((0, 2, 30))},
        "chunk": {"chunk_grid": _grid([*grid["chunk_shape"][:along], size, *grid["chunk_shape"][along + 1 :]])},
        "grid": {"chunk_grid": rng.choice((None, {}, {"name": "rectilinear"}))},
        "dtype": {"data_type": rng.choice(("complex128", "float16", "object", "string", "r8", "", None, ["int16"]))},
        "codec": {"codecs": rng.choice(codecs)},
        "fill": {"fill_value": rng.choice(fills)},
        "key": {"chunk_key_encoding": {"name": "v2", "configuration": {"separator": "../"}}},
        "manifest": {"attributes": {"manifest": rng.choice(manifests)}},
        "type": {"node_type": "group"},
    }
    change = rng.choice(sorted(changes))
    document.update(changes[change])
    path.write_bytes(json.dumps(document).encode())
    _enter(store, path)
    return f"{_named(store, path)}: {change}"


def _grid(edges: list[Any]) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": edges}}


def not_finite(store: Path, rng: random.Random) -> str:
    """Write NaN or infinity into an array of floats, with all checksums right."""
    arrays = [
        path.parent
        for path in files(store)
        if path.name == ROOT
        and path.parent != store
        and str(json.loads(path.read_bytes()).get("data_type", "")).startswith("float")
    ]
    if not arrays:
        return root_attribute(store, rng)
    folder = rng.choice(arrays)
    value = rng.choice((float("nan"), float("inf"), float("-inf")))
    rewrite(store, folder, lambda values: _with_value(values, value, rng))
    return f"{_named(store, folder)} holds {value}"


def other_version(store: Path, rng: random.Random) -> str:
    """Change version, format or completeness in the root."""
    document = json.loads((store / ROOT).read_bytes())
    changes: tuple[tuple[str, Any], ...] = (
        *(("version", version) for version in (1, 2, 3, VERSION + 1, 10**9, None)),
        ("format", "zarr"),
        ("complete", False),
        ("kind", "patch-rows"),
    )
    change = rng.choice(changes)
    document["attributes"][change[0]] = change[1]
    if rng.random() < 0.3:
        del document["attributes"]["manifest"]
    _write_root(store, document)
    return f"{change[0]} is {change[1]}"


FORGERIES: tuple[Change, ...] = (
    json_bomb,
    root_attribute,
    root_attribute,
    manifest_name,
    duplicate_name,
    array_metadata,
    array_metadata,
    not_finite,
    not_finite,
    other_version,
)


def rewrite(store: Path, folder: Path, change: Callable[[Any], Any]) -> None:
    """Replace the values of an array, and make its chunks, its manifest and those of the stores around it fit."""
    owner = folder.parent
    kind = json.loads((owner / ROOT).read_bytes())["attributes"]["kind"]
    array = ArrayStore.open(str(owner), SCHEMAS[kind], listing=False).array(folder.name)
    values = change(array.read())
    unlisted = StoredArray(folder.name, array.layout, None, objects=array._objects, uri=str(owner), remedy="")
    unlisted.write(values)
    sizes = {_named(owner, path): path.stat().st_size for path in files(owner)}
    manifest = unlisted.collect_manifest(sizes)
    (folder / ROOT).write_bytes(encode_json(array.layout.metadata(manifest)))
    _enter(store, folder / ROOT)


def _with_value(values: Any, value: float, rng: random.Random) -> Any:
    changed = np.array(values)
    changed.reshape(-1)[rng.randrange(changed.size)] = value
    return changed


def _enter(store: Path, metadata: Path) -> None:
    """Enter the metadata of an array, or of a store inside, into the manifests of the stores around it."""
    folder = metadata.parent
    while folder != store:
        owner, content = folder.parent, (folder / ROOT).read_bytes()
        document = json.loads((owner / ROOT).read_bytes())
        if not isinstance(document, dict) or "manifest" not in document.get("attributes", {}):
            return
        document["attributes"]["manifest"][folder.name] = [len(content), crc32c(content)]
        _write_root(owner, document)
        folder = owner


def _write_root(store: Path, document: dict[str, Any]) -> None:
    (store / ROOT).write_bytes(encode_json(sign(document)))
