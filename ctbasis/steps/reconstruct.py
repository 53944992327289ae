"""The reconstruct step: the rank-k matrix, or that of patch mode, as derived DICOM series, from one store alone.

out/slice-0001.dcm ...              of one source series, slices in order along the normal
out/series-01/slice-0001.dcm ...    of several, a folder each
basis_images/basis-0001.dcm ...     the columns of U, where they are asked for
noise/slice-0001.dcm ...            of patch mode: sigma of every slice, in folders as the denoised series

Nothing but the DICOM files lies there, so that any viewer or archive takes the folder as it is.
"""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import pydicom
from pydicom.errors import InvalidDicomError

from ctbasis.dicom.basis_series import BasisTemplate, basis_images_hu
from ctbasis.dicom.derived_series import PRODUCT, Derivation, derive, read_header
from ctbasis.dicom.hounsfield import Pixels
from ctbasis.dicom.lossless import UNCOMPRESSED, compress
from ctbasis.dicom.lossless import check as check_compression
from ctbasis.dicom.noise_series import noise_instance, noise_slope
from ctbasis.dicom.stored import spread, store
from ctbasis.dicom.tolerance import tolerant
from ctbasis.errors import CtbasisError
from ctbasis.patch.result import PatchStore
from ctbasis.progress import progress
from ctbasis.svd.factors import FactorStore
from ctbasis.svd.rank_k import check_rank, columns, restore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from numpy.typing import NDArray
    from pydicom.dataset import Dataset

    from ctbasis.matrix.store import SliceArrays

Images: TypeAlias = "tuple[NDArray[Any], NDArray[Any]]"
"""Columns as HU, each contiguous in memory, and what was set aside of them."""


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


def reconstruct(
    basis_uri: str, out: Path, *, rank: int, compression: str = UNCOMPRESSED, basis_images: Path | None = None
) -> list[DerivedSeries]:
    """Write the rank-k images of every slice as DICOM.

    At k = n (and float32 factors or better) the stored pixels are the source's own. Each folder appears whole or not
    at all: the files are written beside it and moved in one rename. Memory is a column group of images whatever n is.

    Args:
        basis_uri: A complete `FactorStore`.
        out: Folder to write; one that this function wrote before is replaced.
        rank: k, at most the rank that is stored.
        compression: One of `lossless.CHOICES`.
        basis_images: Folder for the first k basis images as a series of their own; None for none.

    Returns:
        The series written, in the order of the matrix's columns; that of the basis images is not among them.

    Raises:
        CtbasisError: The basis is missing or incomplete, `rank` or `compression` is not one it can give, a header
            cannot be written, a folder holds something that ctbasis did not write, or the disk is full.
    """
    basis = FactorStore.open(basis_uri)
    check_rank(rank, basis)
    check_compression(compression, basis.image)
    derivation = Derivation.of(basis, rank)

    def denoised(group: slice) -> Images:
        return columns(basis, group, rank), basis.read_aside(group)

    with _whole([folder for folder in (out, basis_images) if folder is not None]) as partials:
        written = _write(basis, partials[0], derivation, denoised, compression)
        for partial in partials[1:]:
            _write_basis(basis, partial, rank, compression)
    return written


def reconstruct_patches(
    denoised_uri: str, out: Path, *, compression: str = UNCOMPRESSED, noise: Path | None = None
) -> list[DerivedSeries]:
    """Write the denoised images of patch mode as DICOM, and beside them maps of the noise.

    See `reconstruct`.

    Args:
        denoised_uri: A complete `PatchStore`.
        out: Folder to write; one that this function wrote before is replaced.
        compression: One of `lossless.CHOICES`.
        noise: Folder for sigma of every slice as series of their own; None for none.

    Returns:
        The denoised series, in the order of the matrix's columns; those of the noise are not among them.

    Raises:
        CtbasisError: The store is missing or incomplete, a header cannot be written, a folder holds something that
            ctbasis did not write, or the disk is full.
    """
    store = PatchStore.open(denoised_uri)
    check_compression(compression, store.image)
    derivation, of_noise = Derivation.of_patches(store)

    def denoised(group: slice) -> Images:
        return np.asfortranarray(store.read_columns(group)), store.read_aside(group)

    with _whole([folder for folder in (out, noise) if folder is not None]) as partials:
        written = _write(store, partials[0], derivation, denoised, compression)
        for partial in partials[1:]:
            _write_noise(store, partial, of_noise, compression)
    return written


@contextmanager
def _whole(folders: Sequence[Path]) -> Iterator[list[Path]]:
    """Yield folders to write to, which take the places of `folders` once all is written."""
    places = [_absolute(folder) for folder in folders]
    for folder in places:
        _refuse_foreign(folder)
    partials = [folder.with_name(f".{folder.name}.partial") for folder in places]
    try:
        for partial in partials:
            shutil.rmtree(partial, ignore_errors=True)
        with tolerant():
            yield partials
        for partial, folder in zip(partials, places, strict=True):
            _move(partial, folder)
    except OSError as error:
        raise CtbasisError(
            f"the series cannot be written to {folders[0]} ({error})", cause="the disk is full or write-protected"
        ) from error
    finally:
        for partial in partials:
            shutil.rmtree(partial, ignore_errors=True)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))  # noqa: PTH100 - a link stays a link, and `..` needs a parent to be a sibling of


def _write(
    basis: SliceArrays,
    folder: Path,
    derivation: Derivation,
    images: Callable[[slice], Images],
    compression: str,
) -> list[DerivedSeries]:
    """Write every slice below `folder`."""
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
    slices = _slices(basis, _paths(folder, written), derivation, images, compression)
    for _ in progress(slices, "reconstruct", total=basis.cols, unit="slice"):
        pass
    return written


def _paths(folder: Path, written: Sequence[DerivedSeries]) -> list[Path]:
    """Return the file of every slice, its folder made."""
    paths: list[Path] = []
    for entry in written:
        (folder / entry.folder).mkdir(parents=True)
        paths += [folder / entry.folder / f"slice-{number:04d}.dcm" for number in range(1, entry.slices + 1)]
    return paths


def _slices(
    basis: SliceArrays,
    paths: list[Path],
    derivation: Derivation,
    images_of: Callable[[slice], Images],
    compression: str,
) -> Iterator[None]:
    """Write slice after slice, a column group at a time; threads overlap the files with the arithmetic."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for group in basis.column_groups:
            images, aside = images_of(group)

            def write(
                column: int, images: NDArray[Any] = images, aside: NDArray[Any] = aside, first: int = group.start
            ) -> None:
                hu = images[:, column - first]
                restore(hu, aside[:, column - first])
                with _named(column):
                    header = read_header(basis.header(column))
                    _save(derive(header, store(hu, Pixels.of(header)), derivation), paths[column], compression)

            yield from pool.map(write, range(group.start, group.stop))


def _write_noise(store: PatchStore, folder: Path, derivation: Derivation, compression: str) -> None:
    """Write sigma of every slice below `folder`."""
    several = len(store.series) > 1
    for number, series in enumerate(store.series):
        noise = store.noise(number)
        slope = noise_slope(noise.sigma)
        entry = DerivedSeries(f"series-{number + 1:02d}" if several else "", "", "", series.count)
        for at, path in progress(enumerate(_paths(folder, [entry])), "noise maps", total=series.count, unit="slice"):
            column = series.first + at
            with _named(column):
                header = read_header(store.header(column))
                _save(noise_instance(header, store.sigma_image(column), derivation, slope), path, compression)


def _write_basis(basis: FactorStore, folder: Path, rank: int, compression: str) -> None:
    """Write the first `rank` basis images below `folder`."""
    folder.mkdir(parents=True)
    derivation = Derivation.of(basis, rank)
    with _named(0):
        template = BasisTemplate.of(basis, derivation)
    for number, image in progress(
        enumerate(basis_images_hu(basis, rank), start=1), "basis images", total=rank, unit="image"
    ):
        path = folder / f"basis-{number:04d}.dcm"
        _save(template.instance(number, spread(image)), path, compression)


def _save(dataset: Dataset, path: Path, compression: str) -> None:
    compress(dataset, compression)
    pydicom.dcmwrite(path, dataset, enforce_file_format=True)


@contextmanager
def _named(column: int) -> Iterator[None]:
    """Say which slice's header is at fault, and nothing of what it holds."""
    try:
        yield
    except (CtbasisError, OSError):
        raise
    except Exception as error:  # noqa: BLE001 - pydicom raises what it likes over such values, and quotes them
        raise CtbasisError(
            f"the header of slice {column + 1} cannot be written as DICOM ({type(error).__name__})",
            cause="an element of the source's header holds what its value representation does not allow",
            remedy="repair the source with another tool",
        ) from None


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
