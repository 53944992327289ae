"""Rows read and written past zarr are those that zarr writes and reads, to the byte, and what is damaged is zarr's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import zarr
from zarr.codecs import BloscCodec, BytesCodec, Crc32cCodec

from ctbasis.storage import chunks
from ctbasis.storage.chunks import read_rows, write_rows

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SHAPE = (23, 7)


def made(
    folder: Path,
    dtype: str,
    chunk: tuple[int, int],
    *,
    compressors: tuple[Any, ...] = (Crc32cCodec(),),
    end: str = "little",
) -> zarr.Array[Any]:
    group = zarr.open_group(folder, mode="w", zarr_format=3)
    serializer = BytesCodec(endian=end)
    return group.create_array(
        "A", shape=SHAPE, chunks=chunk, dtype=dtype, fill_value=0, compressors=compressors, serializer=serializer
    )


def numbers(dtype: str) -> NDArray[Any]:
    return np.random.default_rng(0).integers(1, 100, SHAPE).astype(dtype)


def blocks(height: int) -> list[slice]:
    return [slice(first, min(first + height, SHAPE[0])) for first in range(0, SHAPE[0], height)]


@pytest.mark.parametrize("dtype", ["int16", "float32", "float64"])
@pytest.mark.parametrize("chunk", [(5, 7), (5, 3), (23, 7), (1, 1)])
def test_rows_are_those_that_zarr_wrote(dtype: str, chunk: tuple[int, int], tmp_path: Path) -> None:
    array, A = made(tmp_path, dtype, chunk), numbers(dtype)
    array[:] = A
    for rows in [*blocks(chunk[0]), *blocks(2 * chunk[0]), slice(0, 23), slice(1, 9), slice(None)]:
        np.testing.assert_array_equal(read_rows(array, rows), A[rows])


@pytest.mark.parametrize("chunk", [(5, 7), (5, 3), (23, 7)])
def test_files_are_those_that_zarr_writes(chunk: tuple[int, int], tmp_path: Path) -> None:
    A = numbers("float32")
    ours, theirs = made(tmp_path / "ours", "float32", chunk), made(tmp_path / "theirs", "float32", chunk)
    for rows in blocks(chunk[0]):
        write_rows(ours, rows, A[rows])
        theirs[rows] = A[rows]

    def files(folder: Path) -> dict[str, bytes]:
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert files(tmp_path / "ours") == files(tmp_path / "theirs")


def test_whole_chunks_in_a_folder_are_read_past_zarr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array, A = made(tmp_path, "int16", (5, 3)), numbers("int16")
    array[:] = A
    monkeypatch.setattr(zarr.Array, "__getitem__", None)
    np.testing.assert_array_equal(read_rows(array, slice(5, 15)), A[5:15])


@pytest.mark.parametrize(
    "options", [{"compressors": (BloscCodec(),)}, {"compressors": ()}, {"end": "big"}], ids=["blosc", "none", "big"]
)
def test_chunks_of_other_codecs_are_left_to_zarr(options: dict[str, Any], tmp_path: Path) -> None:
    array, A = made(tmp_path, "int16", (5, 7), **options), numbers("int16")
    for rows in blocks(5):
        write_rows(array, rows, A[rows])
    np.testing.assert_array_equal(array[:], A)
    np.testing.assert_array_equal(read_rows(array, slice(0, 10)), A[:10])


@pytest.mark.parametrize("damage", ["a bit", "the end", "more"])
def test_a_damaged_chunk_is_refused(damage: str, tmp_path: Path) -> None:
    array = made(tmp_path, "int16", (5, 7))
    array[:] = numbers("int16")
    path = tmp_path / "A" / "c" / "1" / "0"
    content = path.read_bytes()
    bit = bytes([content[0] ^ 1]) + content[1:]
    path.write_bytes({"a bit": bit, "the end": content[:-1], "more": content + b"\0"}[damage])
    np.testing.assert_array_equal(read_rows(array, slice(0, 5)), array[0:5])
    with pytest.raises(ValueError, match="checksum"):
        read_rows(array, slice(5, 10))


def test_a_chunk_that_is_gone_reads_as_the_fill_value(tmp_path: Path) -> None:
    array = made(tmp_path, "int16", (5, 7))
    array[0:5] = numbers("int16")[:5]
    assert not read_rows(array, slice(5, 10)).any()


def test_a_write_that_fails_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = made(tmp_path, "int16", (5, 7))

    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device", str(self), None, str(target))

    monkeypatch.setattr(chunks.Path, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_rows(array, slice(0, 5), numbers("int16")[:5])
    assert not [path for path in (tmp_path / "A").rglob("*") if path.is_file() and path.name != "zarr.json"]
