"""Stores of arrays: the one writer and the one reader of all kinds of stores in ctbasis/storage/schemas.py.

A store is a zarr 3 group in a folder or below `s3://bucket/prefix`. The writer marks the root as incomplete first. Any
number of processes write chunks. `StoreWriter.finish` then checks that every array of the schema and every chunk
exists, records the checksum of each in a manifest (ctbasis/storage/root.py), and marks the store as complete.

The reader checks kind, version, the root's checksum, the metadata of each array against the schema, and the sizes of
all chunks in a listing against the manifest, before it allocates anything. Each chunk is checked again when it is read.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.storage import stores
from ctbasis.storage.array_layout import MAX_METADATA_BYTES, ROOT, ArrayLayout, crc32c, encode_json
from ctbasis.storage.objects import open_objects
from ctbasis.storage.root import COMPLETE, CONTENT, OWN_ATTRIBUTES, encode_root, read_root
from ctbasis.storage.schemas import SCHEMAS, ArraySchema, StoreSchema
from ctbasis.storage.stored_array import StoredArray

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

NUMBERED = re.compile(r"(.*-)[1-9][0-9]*", re.ASCII)


class _Store:
    """What reader and writer have in common: the objects, the root and the arrays.

    Args:
        uri: URI of the store.
        schemas: The schemas that it may have.
        complete: Whether it must be complete.
    """

    def __init__(self, uri: str, schemas: Sequence[StoreSchema], *, complete: bool) -> None:
        self.uri = uri
        self._objects = open_objects(uri)
        self._root = read_root(self._objects, uri, schemas, complete=complete)
        self.schema = SCHEMAS[self._root["kind"]]
        self._arrays: dict[str, StoredArray] = {}

    @property
    def attributes(self) -> dict[str, Any]:
        """The attributes of the content, without those of the layout."""
        return {key: value for key, value in self._root.items() if key not in OWN_ATTRIBUTES}

    @property
    def kind(self) -> str:
        """Kind of the store."""
        return self.schema.kind

    def array(self, name: str) -> StoredArray:
        """Return an array, opened once.

        Raises:
            CtbasisError: It is missing, or its metadata differs from the schema or from the manifest.
        """
        if name not in self._arrays:
            self._arrays[name] = self._load(name)
        return self._arrays[name]

    def _load(self, name: str) -> StoredArray:
        key = f"{name}/{ROOT}"
        content = self._objects.read(key, most=MAX_METADATA_BYTES)
        if content is None:
            raise self._error(f"{key} of {self.uri} is missing", "the metadata of an array", _LOST)
        if self._root[COMPLETE] is True:
            self._check_listed(name, key, content)
        schema = array_schema(self.schema, name)
        if schema is None:
            raise self._error(f"{self.uri} has an array {name}", f"the arrays of a {self.schema.title}", _FOREIGN)
        try:
            layout, manifest = ArrayLayout.parse(content, compressed=schema.compressed)
        except ValueError as error:
            raise self._error(f"{key} of {self.uri}: {error}", "an array as ctbasis writes it", _FOREIGN) from None
        if layout.dtype not in schema.dtypes or len(layout.shape) != len(schema.shape):
            raise self._error(
                f"{name} of {self.uri} has {len(layout.shape)} dimensions of {layout.dtype}",
                f"{len(schema.shape)} of {' or '.join(schema.dtypes)}",
                _FOREIGN,
            )
        return StoredArray(
            name,
            layout,
            manifest,
            objects=self._objects,
            uri=self.uri,
            remedy=self.schema.remedy,
            absent=schema.absent,
        )

    def _check_listed(self, name: str, key: str, content: bytes) -> None:
        """Compare metadata with the manifest of the root."""
        listed = self.manifest.get(name)
        if listed is None:
            raise self._error(f"the manifest of {self.uri} does not list {name}", "every array", _FOREIGN)
        found = [len(content), crc32c(content)]
        if found != listed:
            raise self._error(
                f"{key} of {self.uri} has {found[0]} bytes with the checksum {found[1]:08x}",
                f"{listed[0]} bytes with the checksum {listed[1]:08x}, as the manifest lists",
                _FOREIGN,
            )

    @property
    def manifest(self) -> dict[str, list[int]]:
        """Size and CRC-32C of the metadata of each array and inner store by its name, as the root lists them.

        Raises:
            CtbasisError: The root has no manifest.
        """
        listed = self._root.get(CONTENT)
        if not isinstance(listed, dict) or not all(
            isinstance(entry, list) and len(entry) == 2 and all(type(number) is int and number >= 0 for number in entry)  # noqa: PLR2004 - size and checksum
            for entry in listed.values()
        ):
            raise self._error(f"{ROOT} of {self.uri} has no manifest", "size and checksum of each array", _FOREIGN)
        return listed

    def _count(self, attribute: str) -> int:
        """Return the number that an attribute gives: an integer, or the length of a list."""
        value = self._root.get(attribute)
        count = len(value) if isinstance(value, list) else value
        if type(count) is not int or count < 0:
            raise self._error(f"{self.uri} lacks the attribute {attribute}", "a number or a list", _FOREIGN)
        return count

    def _error(self, found: str, expected: str, cause: str) -> CtbasisError:
        return CtbasisError(found, expected=expected, cause=cause, remedy=self.schema.remedy)


class ArrayStore(_Store):
    """A complete store, open for reading.

    Attributes:
        uri: URI of the store.
        schema: Schema of the store.
    """

    @classmethod
    def open(cls, uri: str, *schemas: StoreSchema, listing: bool = True) -> Self:
        """Open the store at `uri` and check it; chunks are checked as they are read.

        Args:
            uri: URI of the store.
            *schemas: The schemas that it may have.
            listing: Compare a listing of the store with the manifest. Workers omit it: the process that sends them has
                done it.

        Raises:
            CtbasisError: There is no store, it is incomplete, of another kind or version, or damaged.
        """
        store = cls(uri, schemas, complete=True)
        if listing:
            store.verify()
        return store

    def verify(self) -> None:
        """Check every array of the schema, the relations of their shapes, and that a listing has every chunk.

        Raises:
            CtbasisError: Something is missing, has another size, or does not fit.
        """
        sizes = self._objects.sizes()
        self._check_names()
        shapes = _Shapes()
        for name in self.manifest:
            if self.schema.members:
                continue
            if sizes.get(f"{name}/{ROOT}", 0) > MAX_METADATA_BYTES:
                raise self._error(f"{name}/{ROOT} of {self.uri} is too large", f"{MAX_METADATA_BYTES} bytes", _FOREIGN)
            array = self.array(name)
            if problem := shapes.mismatch(array, array_schema(self.schema, name)):
                raise self._error(f"{name} of {self.uri}: {problem}", "arrays of one run", _FOREIGN)
            array.check_sizes(sizes)

    def _check_names(self) -> None:
        """Compare the names in the manifest with those of the schema."""
        names = self.manifest.keys()
        fixed = [name for name, schema in self.schema.arrays.items() if not schema.per and not schema.temporary]
        numbered = {name: self._count(schema.per) for name, schema in self.schema.arrays.items() if schema.per}
        if self.schema.members:
            numbered["*"] = self._count(self.schema.members)
        # The comparison of numbers comes first, so that an attribute that claims 10^9 arrays costs nothing.
        if len(names) != len(fixed) + sum(numbered.values()):
            expected: set[str] | None = None
        else:
            expected = {*fixed} | {
                name.replace("*", str(number)) for name, count in numbered.items() for number in range(1, count + 1)
            }
        if names != expected:
            raise self._error(
                f"the manifest of {self.uri} lists {', '.join(sorted(names)[:20]) or 'nothing'}",
                f"{', '.join([*fixed, *numbered])}, with the numbers that its attributes give",
                _FOREIGN,
            )

    def members(self, *schemas: StoreSchema) -> list[ArrayStore]:
        """Open the stores inside this one.

        Raises:
            CtbasisError: One is missing, incomplete, damaged or of another run.
        """
        stored = []
        for number in range(1, self._count(self.schema.members) + 1):
            key = f"{number}/{ROOT}"
            content = self._objects.read(key, most=MAX_METADATA_BYTES)
            if content is None:
                raise self._error(f"{key} of {self.uri} is missing", "every basis of the run", _LOST)
            self._check_listed(str(number), key, content)
            stored.append(ArrayStore.open(f"{self.uri}/{number}", *schemas))
        return stored

    def object_keys(self) -> Iterator[str]:
        """Yield the key of every object of the store, the root last. The keys come from the manifest, not a listing."""
        for name in self.manifest:
            if self.schema.members:
                inner = ArrayStore.open(f"{self.uri}/{name}", SCHEMAS[self.schema.member_kind], listing=False)
                yield from (f"{name}/{key}" for key in inner.object_keys())
            else:
                yield from self.array(name).keys()
                yield f"{name}/{ROOT}"
        yield ROOT


class StoreWriter(_Store):
    """A store that is being written. Any number of processes may write disjoint chunks concurrently.

    Args:
        uri: URI of a store that `create` started.
        *schemas: The schemas that it may have.

    Raises:
        CtbasisError: There is no store of these kinds.
    """

    def __init__(self, uri: str, *schemas: StoreSchema) -> None:
        super().__init__(uri, schemas, complete=False)

    @classmethod
    def create(cls, uri: str, schema: StoreSchema, attributes: Mapping[str, Any] | None = None) -> Self:
        """Create an incomplete store at `uri` and replace a store that is there.

        Raises:
            CtbasisError: There are files or objects at `uri` that are not those of a store, or S3 denies access.
            OSError: The folder cannot be written.
        """
        stores.delete(uri)
        open_objects(uri).write(ROOT, encode_root(schema, attributes or {}, None))
        return cls(uri, schema)

    def create_array(
        self, name: str, shape: Sequence[int], dtype: object, *, chunks: Sequence[int] = ()
    ) -> StoredArray:
        """Create an array without chunks.

        Args:
            name: Name of the array, which must be in the schema.
            shape: Its shape.
            dtype: Its dtype.
            chunks: Edges of a chunk; empty for one chunk. Edges are cut to the shape.
        """
        schema = array_schema(self.schema, name)
        kind = np.dtype(dtype).name  # type: ignore[call-overload]
        if schema is None or kind not in schema.dtypes or len(shape) != len(schema.shape):
            raise TypeError(f"{name}, {kind} of shape {tuple(shape)}, is not in the schema of {self.schema.kind}")
        sizes = tuple(int(size) for size in shape)
        edges = tuple(max(1, min(int(edge), size)) for edge, size in zip(chunks or sizes, sizes, strict=True))
        self._write_metadata(name, ArrayLayout(kind, sizes, edges, schema.compressed).metadata())
        return self.array(name)

    def put(self, name: str, values: NDArray[Any], *, chunks: Sequence[int] = ()) -> None:
        """Create an array and write all of its values."""
        self.create_array(name, values.shape, values.dtype, chunks=chunks).write(values)

    def drop(self, name: str) -> None:
        """Remove an array."""
        array = self.array(name)
        self._objects.remove([*array.keys(), f"{name}/{ROOT}"])
        del self._arrays[name]

    def copy_arrays(self, source: ArrayStore, names: Iterable[str]) -> None:
        """Copy arrays of a complete store in their encoded form: by hard links, or within the S3 server.

        The manifest of each array is copied too, so that a chunk that was damaged before the copy is refused after it.

        Raises:
            CtbasisError: An array is missing or damaged, or S3 denies access.
            OSError: The folder cannot be written.
        """
        for name in names:
            array = source.array(name)
            stores.copy_keys(source.uri, self.uri, array.keys())
            self._write_metadata(name, array.layout.metadata(array.manifest))

    def finish(self, attributes: Mapping[str, Any], *, members: int = 0) -> None:
        """Check that everything is written, write the manifest and mark the store as complete.

        Args:
            attributes: Attributes, added to those that exist.
            members: Number of complete stores inside this one.

        Raises:
            CtbasisError: An array or a chunk is missing.
        """
        self._root.update(attributes)
        sizes = self._objects.sizes()
        content: dict[str, tuple[int, int]] = {}
        shapes = _Shapes()
        for name in self._required():
            array = self.array(name)
            schema = array_schema(self.schema, name)
            if problem := shapes.mismatch(array, schema):
                raise self._error(f"{name} of {self.uri}: {problem}", "arrays of one run", _LOST)
            if array.manifest is None:
                array.manifest = array.collect_manifest(sizes)
            else:
                array.check_sizes(sizes)
            encoded = self._write_metadata(name, array.layout.metadata(array.manifest))
            content[name] = len(encoded), crc32c(encoded)
        for number in range(1, members + 1):
            encoded = self._objects.read(f"{number}/{ROOT}") or b""
            content[str(number)] = len(encoded), crc32c(encoded)
        self._root[CONTENT] = {name: list(entry) for name, entry in content.items()}
        self.update({})

    def update(self, attributes: Mapping[str, Any]) -> None:
        """Change attributes of the content; the root metadata is replaced at once."""
        self._root.update(attributes)
        encoded = encode_root(self.schema, self.attributes, self._root.get(CONTENT))
        self._objects.write(ROOT, encoded)
        self._root = read_root(self._objects, self.uri, (self.schema,), complete=False)

    def _required(self) -> Iterator[str]:
        for name, schema in self.schema.arrays.items():
            if schema.per:
                yield from (name.replace("*", str(number)) for number in range(1, self._count(schema.per) + 1))
            elif not schema.temporary:
                yield name

    def _write_metadata(self, name: str, metadata: Mapping[str, Any]) -> bytes:
        encoded = encode_json(metadata)
        self._objects.write(f"{name}/{ROOT}", encoded)
        self._arrays.pop(name, None)
        return encoded


class _Shapes:
    """The sizes of named dimensions of one store, bound at their first use."""

    def __init__(self) -> None:
        self._sizes: dict[str, int] = {}

    def mismatch(self, array: StoredArray, schema: ArraySchema | None) -> str:
        """Return how the shape or the chunks of an array differ from the sizes so far; empty if they do not."""
        if schema is None:
            return "the schema has no such array"
        number = array.name.rpartition("-")[2] if schema.per else ""
        edges = schema.chunks or tuple(f"{name}" for name in schema.shape)
        for kind, names, sizes in (("shape", schema.shape, array.shape), ("chunks", edges, array.chunks)):
            for name, size in zip(names, sizes, strict=True):
                stored, offset = (name.removesuffix("+1"), 1) if name.endswith("+1") else (name, 0)
                key = f"{number}{stored}" if stored.startswith(".") else stored
                # A chunk of an empty dimension has the edge 1.
                bound = self._sizes.setdefault(key, size - offset) + offset
                if size != (max(1, bound) if kind == "chunks" else bound):
                    return f"its {kind} is {sizes}, with {size} where other arrays have {bound} for {name}"
        return ""


def array_schema(schema: StoreSchema, name: str) -> ArraySchema | None:
    """Return the schema of an array by its name; None if there is none."""
    if schema.open_names:
        return schema.arrays[""]
    numbered = NUMBERED.fullmatch(name)
    if numbered and (found := schema.arrays.get(f"{numbered[1]}*")):
        return found
    return schema.arrays.get(name) if "*" not in name else None


_LOST = "a copy of the store was interrupted, or a program or a lifecycle rule deleted a file or object"
_FOREIGN = "the file or object was damaged, exchanged, or belongs to another run"
