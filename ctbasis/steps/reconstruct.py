"""The reconstruct step: write the denoised matrix as derived DICOM series, from one store.

out/slice-0001.dcm ...              of one source series, slices in order along the normal
out/series-01/slice-0001.dcm ...    of several series, one folder each
basis_images/basis-0001.dcm ...     global mode: the columns of U
noise/slice-0001.dcm ...            patch mode: sigma of every slice, in folders as the denoised series

The folders contain nothing but DICOM files, so that any viewer or archive reads them as they are. The artifact of the
mode that a run does not have contains a text file that says so.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from ctbasis.choices import UNCOMPRESSED
from ctbasis.dicom.basis_series import BasisTemplate, basis_images_hu
from ctbasis.dicom.compression import check_compression
from ctbasis.dicom.derived_series import Derivation, read_header
from ctbasis.dicom.noise_series import noise_instance, noise_slope
from ctbasis.dicom.series_writer import header_errors, replacing_folders, save, slice_paths, write_slice
from ctbasis.dicom.source_series import source_keys, sources_of_columns
from ctbasis.dicom.stored_values import to_full_range
from ctbasis.patch.result import PatchStore
from ctbasis.progress import progress
from ctbasis.svd.factors import FactorStore
from ctbasis.svd.rank_k import check_rank, low_rank_columns, restore_set_aside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from ctbasis.matrix.slice_store import SliceArrays
    from ctbasis.parameters import OutputPlan

Images: TypeAlias = "tuple[NDArray[Any], NDArray[Any]]"
"""Columns in HU, each contiguous in memory, and the values that were set aside of them."""


@dataclass(frozen=True)
class DerivedSeries:
    """One series that was written.

    Attributes:
        folder: Folder below `out`; empty for `out` itself.
        SeriesInstanceUID: SeriesInstanceUID of the derived series.
        source: SeriesInstanceUID of the source series.
        slices: Number of instances.
    """

    folder: str
    SeriesInstanceUID: str
    source: str
    slices: int


def run_step(
    basis_uri: str,
    denoised_uri: str,
    out: Path,
    plan: OutputPlan,
    *,
    rank: int,
    basis_images: Path,
    noise: Path,
) -> list[DerivedSeries]:
    """Write the denoised series of a run, with basis images in global mode or maps of the noise in patch mode.

    The folder of the other mode gets a text file that says so: Kubeflow Pipelines after 2.17 fails a step that does not
    write an output which it declares.

    Args:
        basis_uri: The factor store of global mode.
        denoised_uri: The denoised matrix of patch mode; empty in global mode.
        out: Folder for the denoised series.
        plan: Compression.
        rank: k, in global mode.
        basis_images: Folder for the basis images, in global mode.
        noise: Folder for the maps of the noise, in patch mode.

    Raises:
        CtbasisError: See `reconstruct` and `reconstruct_patches`.
    """
    if denoised_uri:
        written = reconstruct_patches(denoised_uri, out, compression=plan.compress, noise=noise)
        _explain_absence(basis_images, "Basis images are written in global mode. This run was in patch mode.\n")
    else:
        written = reconstruct(basis_uri, out, rank=rank, compression=plan.compress, basis_images=basis_images)
        _explain_absence(noise, "Maps of the noise are written in patch mode. This run was in global mode.\n")
    return written


def _explain_absence(folder: Path, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.txt").write_text(text, encoding="ascii")


def reconstruct(
    basis_uri: str, out: Path, *, rank: int, compression: str = UNCOMPRESSED, basis_images: Path | None = None
) -> list[DerivedSeries]:
    """Write the rank-k images of every slice as DICOM.

    At k = n, with float32 or float64 factors, the stored pixels equal those of the source. Each folder appears complete
    or not at all: files are written to a folder beside it, which is renamed at the end. Memory is one column group of
    images, whatever n is.

    Args:
        basis_uri: A complete `FactorStore`.
        out: Folder to write; one that this function wrote before is replaced.
        rank: k, at most the rank of the stored factors.
        compression: One of `COMPRESSIONS`.
        basis_images: Folder for the first k basis images as a series of their own; None writes none.

    Returns:
        The series written, in the order of the matrix's columns, without the one of the basis images.

    Raises:
        CtbasisError: The basis is missing or incomplete, `rank` exceeds it, images are too small for `compression`, a
            header cannot be written, a folder holds a file that ctbasis did not write, or the disk is full.
    """
    basis = FactorStore.open(basis_uri)
    check_rank(rank, basis)
    check_compression(compression, basis.image)
    derivation = Derivation.of(basis, rank)

    def denoised(group: slice) -> Images:
        return low_rank_columns(basis, group, rank), basis.read_aside(group)

    with replacing_folders([folder for folder in (out, basis_images) if folder is not None]) as partials:
        written = _write(basis, partials[0], derivation, denoised, compression)
        for partial in partials[1:]:
            _write_basis(basis, partial, rank, compression)
    return written


def reconstruct_patches(
    denoised_uri: str, out: Path, *, compression: str = UNCOMPRESSED, noise: Path | None = None
) -> list[DerivedSeries]:
    """Write the denoised images of patch mode as DICOM, and maps of the noise as series of their own.

    As with `reconstruct`, each folder appears complete or not at all.

    Args:
        denoised_uri: A complete `PatchStore`.
        out: Folder to write; one that this function wrote before is replaced.
        compression: One of `COMPRESSIONS`.
        noise: Folder for sigma of every slice, HU; None writes none.

    Returns:
        The denoised series, in the order of the matrix's columns, without those of the noise.

    Raises:
        CtbasisError: The store is missing or incomplete, images are too small for `compression`, a header cannot be
            written, a folder holds a file that ctbasis did not write, or the disk is full.
    """
    store = PatchStore.open(denoised_uri)
    check_compression(compression, store.image)
    derivation, of_noise = Derivation.of_patch_mode(store)

    def denoised(group: slice) -> Images:
        return np.asfortranarray(store.read_columns(group)), store.read_aside(group)

    with replacing_folders([folder for folder in (out, noise) if folder is not None]) as partials:
        written = _write(store, partials[0], derivation, denoised, compression)
        for partial in partials[1:]:
            _write_noise(store, partial, of_noise, compression)
    return written


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
            derivation.uid(key),
            series.SeriesInstanceUID,
            series.count,
        )
        for number, (key, series) in enumerate(zip(source_keys(basis.series), basis.series, strict=True), start=1)
    ]
    slices = _slices(basis, _paths(folder, written), derivation, images, compression)
    for _ in progress(slices, "reconstruct", total=basis.cols, unit="slice"):
        pass
    return written


def _paths(folder: Path, written: Sequence[DerivedSeries]) -> list[Path]:
    """Return the path of every slice's file; its folder is created."""
    paths: list[Path] = []
    for entry in written:
        paths += slice_paths(folder / entry.folder, entry.slices)
    return paths


def _slices(
    basis: SliceArrays,
    paths: list[Path],
    derivation: Derivation,
    images_of: Callable[[slice], Images],
    compression: str,
) -> Iterator[None]:
    """Write slice after slice, one column group at a time; threads write files while the next ones are computed."""
    with header_errors(1):
        sources = sources_of_columns(basis.series, basis.header)
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        for group in basis.column_groups:
            images, aside = images_of(group)

            def write(
                column: int, images: NDArray[Any] = images, aside: NDArray[Any] = aside, first: int = group.start
            ) -> None:
                hu = images[:, column - first]
                restore_set_aside(hu, aside[:, column - first])
                header = basis.header(column)
                write_slice(
                    paths[column],
                    header,
                    hu,
                    derivation,
                    compression=compression,
                    number=column + 1,
                    series=sources[column],
                )

            yield from pool.map(write, range(group.start, group.stop))


def _write_noise(store: PatchStore, folder: Path, derivation: Derivation, compression: str) -> None:
    """Write sigma of every slice below `folder`."""
    several = len(store.series) > 1
    with header_errors(1):
        sources = sources_of_columns(store.series, store.header)
    for number, series in enumerate(store.series):
        of_series = [index for index, part in enumerate(store.parts) if part.number == number]
        slope = max(noise_slope(store.noise(index).sigma) for index in of_series)
        entry = DerivedSeries(f"series-{number + 1:02d}" if several else "", "", "", series.count)
        for at, path in progress(enumerate(_paths(folder, [entry])), "noise maps", total=series.count, unit="slice"):
            column = series.first + at
            with header_errors(column + 1):
                header = read_header(store.header(column))
                image = noise_instance(
                    header, store.sigma_image(column), derivation, slope, series=sources[column], number=column + 1
                )
                save(image, path, compression)


def _write_basis(basis: FactorStore, folder: Path, rank: int, compression: str) -> None:
    """Write the first `rank` basis images below `folder`."""
    folder.mkdir(parents=True)
    derivation = Derivation.of(basis, rank)
    with header_errors(1):
        template = BasisTemplate.of(basis, derivation)
    for number, image in progress(
        enumerate(basis_images_hu(basis, rank), start=1), "basis images", total=rank, unit="image"
    ):
        path = folder / f"basis-{number:04d}.dcm"
        save(template.instance(number, to_full_range(image)), path, compression)
