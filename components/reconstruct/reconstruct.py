"""The reconstruct step: the rank-k matrix as derived DICOM series, from the stored factors alone.

out/slice-0001.dcm ...              of one source series, slices in order along the normal
out/series-01/slice-0001.dcm ...    of several, a folder each

Nothing but the DICOM files lies there, so that any viewer or archive takes the folder as it is.
"""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pydicom
from pydicom.errors import InvalidDicomError

from components.errors import CtbasisError
from components.matrix.hounsfield import Pixels
from components.progress import progress
from components.reconstruct.derived_series import PRODUCT, Derivation, derive, read_header, stored_pixels
from components.reconstruct.rank_k import check_rank, columns
from components.svd.factors import FactorStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray


@dataclass(frozen=True)
class DerivedSeries:
    """One series that was written.

    Attributes:
        folder: Below `out`; empty for `out` itself.
        SeriesInstanceUID: Of the derived series.
        source: SeriesInstanceUID of the source.
        slices: Number of instances.
    """

    folder: str
    SeriesInstanceUID: str
    source: str
    slices: int


def reconstruct(basis_uri: str, out: Path, *, rank: int) -> list[DerivedSeries]:
    """Write the rank-k images of every slice as DICOM.

    At k = n (and float32 factors or better) the stored pixels are the source's own. `out` appears whole or not at all:
    the files are written beside it and moved in one rename. Memory is a column group of images whatever n is.

    Args:
        basis_uri: A complete `FactorStore`.
        out: Folder to write; one that this function wrote before is replaced.
        rank: k, at most the rank that is stored.

    Returns:
        The series written, in the order of the matrix's columns.

    Raises:
        CtbasisError: The basis is missing or incomplete, `rank` is not one it can give, `out` holds something that
            ctbasis did not write, or the disk is full.
    """
    basis = FactorStore.open(basis_uri)
    check_rank(rank, basis)
    out = Path(os.path.abspath(out))  # noqa: PTH100 - a link stays a link, and `..` needs a parent to be a sibling of
    _refuse_foreign(out)
    partial = out.with_name(f".{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        written = _write(basis, partial, rank)
        _move(partial, out)
    except OSError as error:
        raise CtbasisError(
            f"the series cannot be written to {out} ({error})", cause="the disk is full or write-protected"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return written


def _write(basis: FactorStore, folder: Path, rank: int) -> list[DerivedSeries]:
    """Write every slice below `folder`."""
    derivation = Derivation.of(basis, rank)
    several = len(basis.series) > 1
    written = [
        DerivedSeries(
            f"series-{number:02d}" if several else "",
            derivation.uid(series.SeriesInstanceUID),
            series.SeriesInstanceUID,
            series.count,
        )
        for number, series in enumerate(basis.series, start=1)
    ]
    paths: list[Path] = []
    for entry in written:
        (folder / entry.folder).mkdir(parents=True)
        paths += [folder / entry.folder / f"slice-{number:04d}.dcm" for number in range(1, entry.slices + 1)]
    for _ in progress(_slices(basis, paths, derivation), "reconstruct", total=basis.cols, unit="slice"):
        pass
    return written


def _slices(basis: FactorStore, paths: list[Path], derivation: Derivation) -> Iterator[None]:
    """Write slice after slice, a column group at a time; threads overlap the files with the arithmetic."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for group in basis.column_groups:
            images, aside = columns(basis, group, derivation.rank), basis.read_aside(group)

            def write(
                column: int, images: NDArray[Any] = images, aside: NDArray[Any] = aside, first: int = group.start
            ) -> None:
                header = read_header(basis.header(column))
                hu, kept = images[:, column - first], aside[:, column - first]
                pixels = stored_pixels(hu, kept, Pixels.of(header)).reshape(basis.image)
                pydicom.dcmwrite(paths[column], derive(header, pixels, derivation), enforce_file_format=True)

            yield from pool.map(write, range(group.start, group.stop))


def _refuse_foreign(out: Path) -> None:
    """Refuse to replace what ctbasis did not write.

    Raises:
        CtbasisError: `out` is a file, or a folder that holds anything but series that ctbasis derived.
    """
    if not out.exists() or (out.is_dir() and all(_is_ours(path) for path in out.rglob("*") if not path.is_dir())):
        return
    raise CtbasisError(
        f"{out} exists, and ctbasis did not write it",
        expected="a new or empty folder, or one with nothing but series that ctbasis derived, which are replaced",
        remedy="choose another folder, or remove this one",
    )


def _is_ours(path: Path) -> bool:
    try:
        header = pydicom.dcmread(path, specific_tags=["ContributingEquipmentSequence"], stop_before_pixels=True)
    except (InvalidDicomError, OSError):
        return False
    return any(item.get("Manufacturer") == PRODUCT for item in header.get("ContributingEquipmentSequence", []))


def _move(partial: Path, out: Path) -> None:
    """Put `partial` in the place of `out`; the former stays whole beside it until the new one stands."""
    former = out.with_name(f".{out.name}.former")
    shutil.rmtree(former, ignore_errors=True)
    if out.exists():
        out.rename(former)
    partial.rename(out)
    shutil.rmtree(former, ignore_errors=True)
