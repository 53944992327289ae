"""Scores of a CT volume against its clean copy: errors, similarity, noise power, sharpness, and removed anatomy.

The scores are defined in ctbasis/report/quality.py, in ctbasis/simulate/nodules.py and in the modules regions,
noise_power, structure and edge_spread of this package. Slices are read one column group at a time, in the order of the
pipeline.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.progress import progress
from ctbasis.report.quality import EDGE_SHARE, compare, edge_ratio
from ctbasis.report.smoothed_removal import SmoothedRemoval
from ctbasis.report.survey import lung_share
from ctbasis.score.edge_spread import EdgeSpread
from ctbasis.score.noise_power import NoisePower
from ctbasis.score.noisy_truth import against_noisy_truth
from ctbasis.score.regions import BONE, RegionErrors, Regions
from ctbasis.score.slices import images_of, opened
from ctbasis.score.structure import StructureContent
from ctbasis.score.task.transfer import transfers_by_contrast
from ctbasis.simulate.inserts import INSERTS, read_inserts
from ctbasis.simulate.nodules import NODULES, Contrast, check_places, read_nodules

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from ctbasis.matrix.read import ImageLike
    from ctbasis.score.slices import Slices
    from ctbasis.simulate.inserts import Insert
    from ctbasis.simulate.nodules import InsertedNodule, Spacing

EDGE_SLICES = 24
"""Number of evenly spaced slices whose skin is measured; they hold tens of thousands of edge pixels."""

PICTURE_MARGIN = 12.0
"""Distance in mm around the centre of a nodule that its picture shows."""

NO_AIR = -1100.0
"""HU below any voxel: a score refuses nodules outside the volume, but not nodules in air."""


@dataclass
class Shown:
    """The slice that the page shows, each image HU, (rows, columns).

    Attributes:
        index: Index of the slice.
        truth: The truth.
        image: The image.
        noisy: The noisy input; None if it is not given.
    """

    index: int
    truth: NDArray[np.float32]
    image: NDArray[np.float32]
    noisy: NDArray[np.float32] | None


@dataclass
class Comparison:
    """Measurements of an image against its truth.

    Attributes:
        scores: The scores, values for JSON.
        spacing: mm between slices, rows and columns.
        power: Noise power of the errors of image and input in the body, by name.
        edges: Edge-spread functions of the skin.
        shown: The slice with the most lung.
        patches: By diameter and contrast of a nodule, the surroundings of the first such nodule in truth, image and
            input, HU.
    """

    scores: dict[str, Any]
    spacing: Spacing
    power: dict[str, NoisePower]
    edges: EdgeSpread
    shown: Shown
    patches: dict[tuple[float, float], dict[str, NDArray[np.float32]]]


def score_image(
    truth: ImageLike,
    image: ImageLike,
    noisy: ImageLike | None = None,
    *,
    spacing: tuple[float, float, float] | None = None,
    truth_noise: float | None = None,
) -> dict[str, Any]:
    """Score a CT volume against its clean copy: `ctbasis score` for volumes and arrays.

    Args:
        truth: The clean volume: a volume, an array of HU (slices, rows, columns), a DataArray, or the folder or URI of
            a series.
        image: The volume to score, of the same geometry.
        noisy: The volume that `image` was computed from; it is scored too, and what was removed from it.
        spacing: mm between slices, rows and columns, for volumes given as arrays.
        truth_noise: Noise of the truth in soft tissue, HU, if it is known; by default it is measured.

    Returns:
        The scores by name, which are `rmse`, `rmse_body`, `rmse_lung`, `rmse_bone` (HU), `psnr` (dB), `ssim`, `nps`,
        `mtf` and others; with `noisy` also `before`, its scores, and `removed`; `truth_noise` and, where that is
        noticeable, `noise_corrected`. docs/explanation/quality.md defines each. None stands where the truth has no
        voxel to measure.

    Raises:
        CtbasisError: The geometries differ, images are smaller than 11 x 11, the truth shows nothing but padding, or a
            series cannot be read.

    Examples:
        >>> import ctbasis
        >>> phantom = ctbasis.chest_phantom(slices=2, rows=64, columns=64)
        >>> scores = ctbasis.score_image(phantom, phantom.with_hu(phantom.hu + 3))
        >>> scores["rmse_body"]
        3.0
    """
    return compare_with_truth(truth, image, noisy, spacing=spacing, truth_noise=truth_noise).scores


def compare_with_truth(
    truth: ImageLike,
    image: ImageLike,
    noisy: ImageLike | None = None,
    nodules: Path | None = None,
    *,
    spacing: tuple[float, float, float] | None = None,
    truth_noise: float | None = None,
) -> Comparison:
    """Compare a volume with its clean copy, and examine the component that was removed from a noisy input.

    Args:
        truth: The clean volume, or the folder of its series.
        image: The volume to score, or the folder of its series, of the same geometry.
        noisy: The volume that `image` was computed from, to examine the removed component.
        nodules: JSON file with the nodules in the truth; by default nodules.json in the folder `truth`, if it exists.
        spacing: mm between slices, rows and columns, for volumes given as arrays.
        truth_noise: Noise of the truth in soft tissue, HU, if it is known; by default it is measured.

    Returns:
        The measurements. Their scores are those of `ctbasis.report.quality.Quality`, rmse_bone, rmse_edges, nps and
        mtf; with `noisy` also before and removed; with nodules also nodules; if the folder `truth` has an inserts.json,
        also inserts, the TTF by contrast. See docs/explanation/quality.md.

    Raises:
        CtbasisError: A folder holds no CT series, the volumes differ in geometry, images are too small, or the list of
            nodules does not belong to the truth.
    """
    if nodules is None and isinstance(truth, (str, os.PathLike)) and Path(truth, NODULES).is_file():
        nodules = Path(truth, NODULES)
    inserted = read_nodules(nodules) if nodules else []
    beside = Path(truth, INSERTS) if isinstance(truth, (str, os.PathLike)) else None
    discs = read_inserts(beside) if beside and beside.is_file() else []
    images = {"truth": truth, "image": image} | ({} if noisy is None else {"noisy": noisy})
    with opened(images, spacing) as slices:
        comparison = _measured(slices, inserted, discs)
        images_by_name = {name: partial(images_of, store) for name, store in slices.items()}
        count, pixels = slices["truth"].cols, comparison.spacing[1:]
        comparison.scores.update(against_noisy_truth(images_by_name, count, pixels, truth_noise))
        return comparison


def _measured(stores: dict[str, Slices], nodules: Sequence[InsertedNodule], inserts: Sequence[Insert]) -> Comparison:
    truth, image, noisy = stores["truth"], stores["image"], stores.get("noisy")
    series = truth.series[0]
    dy, dx = series.pixel_spacing
    spacing = (series.spacing or dy, dy, dx)
    if (nodules or inserts) and len(truth.series) > 1:
        raise CtbasisError(
            f"{'nodules' if nodules else 'inserts'} are given for a folder of {len(truth.series)} series",
            expected="one series, because their positions count slices within a series",
        )
    if nodules:
        check_places(nodules, images_of(truth), air=NO_AIR)
    measures = Measures(truth.image, spacing, nodules, inserts, with_noisy=noisy is not None)
    every = max(1, truth.cols // EDGE_SLICES)
    groups = [images_of(store) for store in (truth, image, *([noisy] if noisy else []))]
    for z, slices in enumerate(progress(zip(*groups, strict=True), "score", total=truth.cols, unit="slice")):
        measures.add(z, *slices, edge=z % every == every // 2)
    scores = {**_compared(truth, image, "image"), **measures.to_dict()}
    if noisy:
        scores["before"] = {**_compared(truth, noisy, "noisy"), **measures.before()}
        scores["removed"] = {
            **_edge_ratios(stores),
            **measures.structure.to_dict(),
            **measures.smoothed.to_dict(),
        }
    return Comparison(scores, spacing, measures.power, measures.edges, measures.shown, measures.patches)


class Measures:
    """Measurements that are accumulated slice by slice in one pass.

    Args:
        image: Rows and columns.
        spacing: mm between slices, rows and columns.
        nodules: The nodules in the truth.
        inserts: The disc inserts in the truth.
        with_noisy: Whether slices of the noisy input are added too.
    """

    def __init__(
        self,
        image: tuple[int, int],
        spacing: Spacing,
        nodules: Sequence[InsertedNodule],
        inserts: Sequence[Insert] = (),
        *,
        with_noisy: bool,
    ) -> None:
        names = ("truth", "image", "noisy") if with_noisy else ("truth", "image")
        self.errors = {name: RegionErrors() for name in names[1:]}
        self.power = {name: NoisePower(spacing[1:]) for name in names[1:]}
        self.contrast = {name: Contrast(nodules, image, spacing) for name in names[1:]}
        self.transfers = {name: transfers_by_contrast(inserts, spacing[1:]) for name in names[1:]}
        self.edges = EdgeSpread(spacing[1:], names)
        self.structure = StructureContent()
        self.smoothed = SmoothedRemoval()
        self.shown = Shown(0, np.zeros(image, np.float32), np.zeros(image, np.float32), None)
        self.patches: dict[tuple[float, float], dict[str, NDArray[np.float32]]] = {}
        self._names, self._spacing, self._most_lung = names, spacing, -1.0

    def add(self, z: int, truth: NDArray[np.float32], *images: NDArray[np.float32], edge: bool) -> None:
        """Add a slice.

        Args:
            z: Index of the slice.
            truth: Truth, HU, (rows, columns).
            *images: Image and, if there is one, noisy input, HU, (rows, columns).
            edge: Whether the edge of the skin is measured in this slice.
        """
        regions = Regions(truth.astype(np.float64))
        for name, image in zip(self.errors, images, strict=True):
            error = image - truth
            self.errors[name].add(regions, error)
            self.power[name].add(error, regions.body)
            self.contrast[name].add(z, truth, image)
            for transfer in self.transfers[name]:
                transfer.add(z, truth, image)
        if edge:
            self.edges.add(truth, *images)
        noisy = images[1] if len(images) > 1 else None
        if noisy is not None:
            self.structure.add(regions, noisy - images[0], noisy - truth)
            self.smoothed.add(truth, noisy - images[0], noisy - truth)
        self._keep_patches(z, (truth, *images))
        lung = lung_share(truth)
        if lung > self._most_lung:
            self._most_lung = lung
            self.shown = Shown(z, truth, images[0], noisy)

    def _keep_patches(self, z: int, slices: tuple[NDArray[np.float32], ...]) -> None:
        for nodule in self.contrast["image"].nodules:
            kind = (nodule.diameter_mm, nodule.contrast_hu)
            if round(nodule.slice) == z and kind not in self.patches:
                _, dy, dx = self._spacing
                row, column = round(nodule.row), round(nodule.column)
                up, left = round(PICTURE_MARGIN / dy), round(PICTURE_MARGIN / dx)
                window = slice(max(0, row - up), row + up + 1), slice(max(0, column - left), column + left + 1)
                self.patches[kind] = {name: image[window] for name, image in zip(self._names, slices, strict=True)}

    def to_dict(self) -> dict[str, Any]:
        """Return the scores of the image."""
        return {**self._of("image"), "mtf": self.edges.to_dict(), "bone_above": BONE, "edge_share": EDGE_SHARE}

    def before(self) -> dict[str, Any]:
        """Return the scores of the noisy input."""
        return self._of("noisy")

    def _of(self, name: str) -> dict[str, Any]:
        kinds = self.contrast[name].kinds()
        return {
            **{f"rmse_{region}": rms for region, rms in self.errors[name].rms.items()},
            "nps": self.power[name].to_dict(),
            **({"nodules": kinds} if kinds else {}),
            **({"inserts": [one.to_dict() for one in self.transfers[name]]} if self.transfers[name] else {}),
        }


def _compared(truth: Slices, image: Slices, name: str) -> dict[str, Any]:
    images = progress(images_of(image), f"similarity of {name}", total=image.cols, unit="slice")
    try:
        return compare(images_of(truth), images).to_dict()
    except ValueError as error:
        raise CtbasisError(
            f"the {name} cannot be compared with the truth: {error}", expected="a truth that is not only padding"
        ) from error


def _edge_ratios(stores: dict[str, Slices]) -> dict[str, float | None]:
    """Return the edge ratios of the removed component and of the true noise."""

    def ratio(of: str) -> float | None:
        images = progress(
            images_of(stores["noisy"]), f"edges of noisy - {of}", total=stores["noisy"].cols, unit="slice"
        )
        pairs = zip(images, images_of(stores[of]), strict=True)
        try:
            measured = edge_ratio((one - other for one, other in pairs), images_of(stores["truth"]))
        except ValueError:
            return None
        return measured.ratio if np.isfinite(measured.ratio) else None

    return {"edge_ratio": ratio("image"), "noise_edge_ratio": ratio("truth")}
