"""Reading and writing one stored array: the only code that touches chunks.

Every chunk that is read is checked for existence and size, against the checksum that it carries, and against the
manifest of a complete store. A missing chunk is never replaced by a fill value; every chunk is written, also one of
fill values. Chunks are read and written as files or objects, without zarr: its event loop takes 0.3 us per row of 300
int16 values, which is not small compared with the matrix products of a pass over A.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.storage.array_layout import ArrayLayout, Manifest, compress, crc32c, decompress
from ctbasis.storage.objects import CHECKSUM_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from ctbasis.storage.objects import Objects


class StoredArray:
    """One array of a store, open for reading or writing.

    Attributes:
        name: Name of the array.
        layout: dtype, shape, chunks and codecs.
        manifest: The chunks' checksums and sizes; None while the store is being written.

    Args:
        name: Name of the array.
        layout: See above.
        manifest: See above.
        objects: The objects of the store.
        uri: URI of the store, for error messages.
        remedy: What a user does to get the store again, for error messages.
        absent: Whether NaN stands for "no value".
    """

    def __init__(
        self,
        name: str,
        layout: ArrayLayout,
        manifest: Manifest | None,
        *,
        objects: Objects,
        uri: str,
        remedy: str,
        absent: bool = False,
    ) -> None:
        self.name = name
        self.layout = layout
        self.manifest = manifest
        self._objects = objects
        self._uri = uri
        self._remedy = remedy
        self._absent = absent

    @property
    def shape(self) -> tuple[int, ...]:
        """Sizes of the array."""
        return self.layout.shape

    @property
    def chunks(self) -> tuple[int, ...]:
        """Edges of a chunk."""
        return self.layout.chunks

    @property
    def dtype(self) -> np.dtype[Any]:
        """The stored dtype."""
        return np.dtype(self.layout.dtype)

    def read(self, *selection: slice) -> NDArray[Any]:
        """Return a part of the array; only the chunks that overlap are read.

        Args:
            *selection: A slice of step 1 for each dimension; dimensions that are omitted are read whole.

        Raises:
            CtbasisError: A chunk is missing, has another size, or fails a checksum; or a value is not finite.
        """
        region = self._region(selection)
        values = self._read(region)
        if values.dtype.kind == "f" and not self._is_valid(values):
            raise self._error(
                f"{self.name} of {self._uri} holds NaN or Inf in rows {region[0].start} to {region[0].stop}",
                "finite numbers",
                "another program wrote the store, or a computation failed",
            )
        return values

    def _is_valid(self, values: NDArray[Any]) -> bool:
        if self._absent:
            return not np.isinf(values).any()
        # A finite sum has finite terms; only the sum of very large numbers needs a look at each.
        with np.errstate(over="ignore", invalid="ignore"):
            return bool(np.isfinite(values.sum()) or np.isfinite(values).all())

    def _read(self, region: tuple[slice, ...]) -> NDArray[Any]:
        counts = tuple(part.stop - part.start for part in region)
        indices = list(product(*_overlapping(region, self.chunks))) if all(counts) else []
        if len(indices) == 1 and self._begins_rows_of(indices[0], region):
            return self._chunk(indices[0])[: counts[0]]
        out = np.empty(counts, self.dtype)
        if self._objects.parallel > 1 and len(indices) > 1:
            with ThreadPoolExecutor(self._objects.parallel) as pool:
                for _ in pool.map(lambda index: self._copy(index, self._chunk(index), region, out), indices):
                    pass
            return out
        # One buffer for all chunks: fresh memory for each would cost page faults.
        raw = None if self.layout.compressed else np.empty(self.layout.chunk_bytes + CHECKSUM_BYTES, np.uint8)
        for index in indices:
            self._copy(index, self._chunk(index, raw), region, out)
        return out

    def write(self, values: NDArray[Any], *selection: slice) -> None:
        """Write whole chunks.

        Args:
            values: Values of the selected part, converted to the array's dtype.
            *selection: As in `read`; it must begin and end at edges of chunks.

        Raises:
            ValueError: The part does not cover whole chunks, or `values` has another shape.
            OSError: The folder cannot be written; an incomplete file is removed.
        """
        region = self._region(selection)
        if values.shape != tuple(part.stop - part.start for part in region):
            raise ValueError(f"values of shape {values.shape} for {region} of {self.name}")
        for part, edge, size in zip(region, self.chunks, self.shape, strict=True):
            if part.start % edge or (part.stop % edge and part.stop != size):
                raise ValueError(f"{region} of {self.name} does not cover whole chunks of {self.chunks}")
        for index in product(*_overlapping(region, self.chunks)):
            inner = tuple(
                slice(along * edge - part.start, min((along + 1) * edge, part.stop) - part.start)
                for along, edge, part in zip(index, self.chunks, region, strict=True)
            )
            self._write_chunk(index, values[inner])

    def keys(self) -> Iterator[str]:
        """Yield the key of every chunk in C order."""
        yield from map(self.key, self.layout.indices())

    def key(self, index: Iterable[int]) -> str:
        """Return the key of a chunk within the store."""
        return "/".join((self.name, "c", *map(str, index)))

    def collect_manifest(self, sizes: Mapping[str, int]) -> Manifest:
        """Return the manifest from the chunks as they were written: each one's size, and the checksum at its end.

        Args:
            sizes: Size of every object of the store.

        Raises:
            CtbasisError: A chunk is missing or has another size than its values.
        """
        indices = list(self.layout.indices())
        found = []
        for index in indices:
            size = sizes.get(self.key(index))
            self._check_size(index, size, self.layout.stored_bytes)
            found.append(size)

        def checksum(index: tuple[int, ...]) -> int:
            return int.from_bytes(self._objects.read_end(self.key(index), CHECKSUM_BYTES), "little")

        checksums = list(_mapped(checksum, indices, self._objects.parallel))
        return Manifest(np.asarray(checksums, np.uint32), np.asarray(found, np.int64))

    def check_sizes(self, sizes: Mapping[str, int]) -> None:
        """Compare the chunks in a listing with the manifest.

        Raises:
            CtbasisError: A chunk is missing or has another size, or there is no manifest.
        """
        if self.manifest is None:
            raise self._error(f"{self.name} of {self._uri} has no manifest", "the checksum of every chunk")
        for index, expected in zip(self.layout.indices(), self.manifest.sizes.tolist(), strict=True):
            self._check_size(index, sizes.get(self.key(index)), expected)

    def _chunk(self, index: tuple[int, ...], raw: NDArray[np.uint8] | None = None) -> NDArray[Any]:
        """Return the values of a chunk after all checks; they lie in `raw` if it is given."""
        key = self.key(index)
        expected = (
            self.layout.stored_bytes if self.manifest is None else int(self.manifest.sizes[self.layout.position(index)])
        )
        if expected is None:
            content = self._objects.read(key)
            size = None if content is None else len(content)
            raw = np.frombuffer(content or b"", np.uint8)
        else:
            raw = np.empty(expected, np.uint8) if raw is None else raw
            size = self._objects.read_into(key, raw)
        self._check_size(index, size, expected)
        values, checksum = raw[:-CHECKSUM_BYTES], int.from_bytes(raw[-CHECKSUM_BYTES:].tobytes(), "little")
        if (actual := crc32c(values)) != checksum:
            raise self._chunk_error(
                index, f"has the checksum {actual:08x}", f"{checksum:08x}, which is stored with the chunk", _DAMAGED
            )
        if self.manifest is not None and checksum != (
            listed := int(self.manifest.checksums[self.layout.position(index)])
        ):
            raise self._chunk_error(
                index, f"has the checksum {checksum:08x}", f"{listed:08x}, which the manifest lists", _FOREIGN
            )
        if self.layout.compressed:
            try:
                values = decompress(values, self.layout.chunk_bytes)
            except ValueError as error:
                raise self._chunk_error(index, f"cannot be read: {error}", "a compressed chunk", _DAMAGED) from error
        return values.view(self.dtype.newbyteorder("<")).reshape(self.chunks)

    def _copy(self, index: tuple[int, ...], values: NDArray[Any], region: tuple[slice, ...], out: NDArray[Any]) -> None:
        """Copy the part of a chunk that lies in `region` to its place in `out`."""
        target, source = [], []
        for along, edge, part in zip(index, self.chunks, region, strict=True):
            first, stop = max(along * edge, part.start), min((along + 1) * edge, part.stop)
            target.append(slice(first - part.start, stop - part.start))
            source.append(slice(first - along * edge, stop - along * edge))
        out[tuple(target)] = values[tuple(source)]

    def _write_chunk(self, index: tuple[int, ...], values: NDArray[Any]) -> None:
        dtype = self.dtype.newbyteorder("<")
        if values.shape == self.chunks:
            chunk = np.ascontiguousarray(values, dtype)
        else:
            chunk = np.full(self.chunks, self.layout.fill_value, dtype)
            chunk[tuple(map(slice, values.shape))] = values
        if self.layout.compressed:
            chunk = np.frombuffer(compress(chunk), np.uint8)
        self._objects.write_chunk(self.key(index), chunk, crc32c(chunk).to_bytes(CHECKSUM_BYTES, "little"))

    def write_fill(self, *selection: slice) -> None:
        """Write chunks of the fill value; the arguments are as in `write`."""
        region = self._region(selection)
        chunk = _fill_chunk(self.layout.dtype, self.chunks, compressed=self.layout.compressed)
        for index in product(*_overlapping(region, self.chunks)):
            self._objects.write_chunk(self.key(index), chunk, crc32c(chunk).to_bytes(CHECKSUM_BYTES, "little"))

    def _region(self, selection: tuple[slice, ...]) -> tuple[slice, ...]:
        whole = selection + (slice(None),) * (len(self.shape) - len(selection))
        bounds = [part.indices(size) for part, size in zip(whole, self.shape, strict=True)]
        return tuple(slice(start, max(start, stop)) for start, stop, _ in bounds)

    def _begins_rows_of(self, index: tuple[int, ...], region: tuple[slice, ...]) -> bool:
        """Tell whether a region is the first rows of a chunk, with all of the chunk's columns."""
        starts = all(part.start == along * edge for along, edge, part in zip(index, self.chunks, region, strict=True))
        return starts and all(
            part.stop - part.start == edge for edge, part in zip(self.chunks[1:], region[1:], strict=True)
        )

    def _check_size(self, index: tuple[int, ...], size: int | None, expected: int | None) -> None:
        if size is None:
            raise self._chunk_error(index, "is missing", "every chunk that the store's writer wrote", _LOST)
        if size != expected if expected is not None else size <= CHECKSUM_BYTES:
            raise self._chunk_error(
                index, f"has {size} bytes", f"{expected} bytes" if expected else "values and a checksum", _DAMAGED
            )

    def _chunk_error(self, index: tuple[int, ...], found: str, expected: str, cause: str) -> CtbasisError:
        first = index[0] * self.chunks[0]
        unit = "rows" if len(index) > 1 else "values"
        place = f"{self.name} of {self._uri}, {unit} {first} to {min(first + self.chunks[0], self.shape[0])}"
        return self._error(f"{place}: the chunk {self.key(index)} {found}", expected, cause)

    def _error(self, found: str, expected: str, cause: str = "") -> CtbasisError:
        return CtbasisError(found, expected=expected, cause=cause, remedy=self._remedy)


_LOST = "a copy of the store was interrupted, or a program or a lifecycle rule deleted a file or object"
_DAMAGED = "the file or object was damaged or cut short, on a disk or during a copy"
_FOREIGN = "the file or object was exchanged for another chunk, or belongs to another run"


@lru_cache(maxsize=4)
def _fill_chunk(dtype: str, chunks: tuple[int, ...], *, compressed: bool) -> NDArray[Any]:
    layout = ArrayLayout(dtype, chunks, chunks, compressed)
    chunk = np.full(chunks, layout.fill_value, np.dtype(dtype).newbyteorder("<"))
    return np.frombuffer(compress(chunk), np.uint8) if compressed else chunk


def _overlapping(region: Iterable[slice], chunks: Iterable[int]) -> list[range]:
    """Return the indices of the chunks that overlap a region, along each dimension."""
    return [range(part.start // edge, -(-part.stop // edge)) for part, edge in zip(region, chunks, strict=True)]


def _mapped(function: Callable[[Any], Any], items: list[Any], parallel: int) -> Iterator[Any]:
    if parallel == 1 or len(items) < math.sqrt(parallel):
        yield from map(function, items)
        return
    with ThreadPoolExecutor(parallel) as pool:
        yield from pool.map(function, items)
