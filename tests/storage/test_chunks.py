"""`read_rows` and `write_rows` agree with zarr byte by byte, and damaged chunks raise zarr's errors."""

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


def create_array(
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


def random_values(dtype: str) -> NDArray[Any]:
    return np.random.default_rng(0).integers(1, 100, SHAPE).astype(dtype)


def blocks(height: int) -> list[slice]:
    return [slice(first, min(first + height, SHAPE[0])) for first in range(0, SHAPE[0], height)]


@pytest.mark.parametrize("dtype", ["int16", "float32", "float64"])
@pytest.mark.parametrize("chunk", [(5, 7), (5, 3), (23, 7), (1, 1)])
def test_rows_equal_those_that_zarr_wrote(dtype: str, chunk: tuple[int, int], tmp_path: Path) -> None:
    array, A = create_array(tmp_path, dtype, chunk), random_values(dtype)
    array[:] = A
    for rows in [*blocks(chunk[0]), *blocks(2 * chunk[0]), slice(0, 23), slice(1, 9), slice(None)]:
        np.testing.assert_array_equal(read_rows(array, rows), A[rows])


@pytest.mark.parametrize("chunk", [(5, 7), (5, 3), (23, 7)])
def test_files_equal_those_that_zarr_writes(chunk: tuple[int, int], tmp_path: Path) -> None:
    A = random_values("float32")
    direct = create_array(tmp_path / "direct", "float32", chunk)
    reference = create_array(tmp_path / "reference", "float32", chunk)
    for rows in blocks(chunk[0]):
        write_rows(direct, rows, A[rows])
        reference[rows] = A[rows]

    def files(folder: Path) -> dict[str, bytes]:
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    assert files(tmp_path / "direct") == files(tmp_path / "reference")


def test_whole_chunks_in_a_folder_are_read_without_zarr(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array, A = create_array(tmp_path, "int16", (5, 3)), random_values("int16")
    array[:] = A
    monkeypatch.setattr(zarr.Array, "__getitem__", None)
    np.testing.assert_array_equal(read_rows(array, slice(5, 15)), A[5:15])


@pytest.mark.parametrize(
    "options", [{"compressors": (BloscCodec(),)}, {"compressors": ()}, {"end": "big"}], ids=["blosc", "none", "big"]
)
def test_chunks_with_other_codecs_are_read_and_written_by_zarr(options: dict[str, Any], tmp_path: Path) -> None:
    array, A = create_array(tmp_path, "int16", (5, 7), **options), random_values("int16")
    for rows in blocks(5):
        write_rows(array, rows, A[rows])
    np.testing.assert_array_equal(array[:], A)
    np.testing.assert_array_equal(read_rows(array, slice(0, 10)), A[:10])


@pytest.mark.parametrize("damage", ["flipped bit", "truncated", "extra byte"])
def test_a_damaged_chunk_raises_an_error(damage: str, tmp_path: Path) -> None:
    array = create_array(tmp_path, "int16", (5, 7))
    array[:] = random_values("int16")
    path = tmp_path / "A" / "c" / "1" / "0"
    content = path.read_bytes()
    flipped = bytes([content[0] ^ 1]) + content[1:]
    damaged = {"flipped bit": flipped, "truncated": content[:-1], "extra byte": content + b"\0"}
    path.write_bytes(damaged[damage])
    np.testing.assert_array_equal(read_rows(array, slice(0, 5)), array[0:5])
    with pytest.raises(ValueError, match="checksum"):
        read_rows(array, slice(5, 10))


def test_a_missing_chunk_reads_as_the_fill_value(tmp_path: Path) -> None:
    array = create_array(tmp_path, "int16", (5, 7))
    array[0:5] = random_values("int16")[:5]
    assert not read_rows(array, slice(5, 10)).any()


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = create_array(tmp_path, "int16", (5, 7))

    def disk_full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device", str(self), None, str(target))

    monkeypatch.setattr(chunks.Path, "replace", disk_full)
    with pytest.raises(OSError, match="No space left"):
        write_rows(array, slice(0, 5), random_values("int16")[:5])
    assert not [path for path in (tmp_path / "A").rglob("*") if path.is_file() and path.name != "zarr.json"]
