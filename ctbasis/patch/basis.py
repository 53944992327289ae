"""The basis of patches: what the tall matrix of whitened patches is made of, learned in two passes, and kept.

A patch y (HU over sigma) is whitened by the noise's covariance C: w = C^(-1/2) y, so that its noise is white with
variance one. Patches of lung, vessel, muscle and bone edge do not lie in one small subspace; so they are told apart
by their leading weights, in which noise hardly shows, by a mixture of Gaussians, and every class has its own basis:
the eigenvectors of its Gram matrix, which are the right singular vectors of its rows. Where noise has several textures
(ctbasis/patch/texture.py), patches of each are whitened by its own C and have classes of their own.

Every pass is a sum over blocks of rows: classes need a sample, bases a Gram matrix and a mean per class.
"""

from __future__ import annotations

import importlib.metadata
import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np
from threadpoolctl import threadpool_limits

from ctbasis.errors import CtbasisError
from ctbasis.matrix.store import array_of, open_complete
from ctbasis.patch.kernels import compiled
from ctbasis.patch.plan import CLASSES
from ctbasis.patch.rows import Grid
from ctbasis.patch.volume import slabs
from ctbasis.storage import stores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

    from ctbasis.patch.noise import Noise
    from ctbasis.patch.rows import Shape
    from ctbasis.patch.volume import Slab, Sums, Volume

VERSION = 2
"""Of the layout of a stored basis and of the meaning of its arrays."""

LEADING = 12
"""Weights by which classes are told apart."""

SAMPLE = 160_000
"""Patches on which classes are found."""

LEARNED = 2_000_000
"""Patches on which bases are learned; more of them change nothing that can be measured."""

ROOM = 16
"""Patches for each voxel of a patch that a class has for its basis, on average: with few, the basis holds their noise,
which then stays. A short series has fewer classes."""

QUIETEST = 5e-2
"""Eigenvalue of the noise's covariance, over their mean, that is taken for no less: a soft kernel leaves directions
without noise, and nobody's covariance is right to a twentieth."""

EMPTY_AIR = -990.0
"""HU: a patch with nothing above is clipped air, has no noise to speak of, and is left out of the basis."""

HEIGHT = 32
"""Image rows that are read at once: what memory is proportional to."""


@dataclass(frozen=True)
class Classes:
    """A mixture of Gaussians over the leading weights.

    The distance of weights to every class is a quadratic form, so one product gives all: of 1, each weight, and each
    product of two, with `forms`.

    Attributes:
        centre: Taken off the weights first, so that squares do not swallow differences, (LEADING,).
        forms: Squared Mahalanobis distance + log det - 2 log share, (1 + LEADING + LEADING (LEADING + 1) / 2, classes).
    """

    centre: NDArray[np.float32]
    forms: NDArray[np.float32]

    @property
    def number(self) -> int:
        """How many there are."""
        return int(self.forms.shape[1])

    def of(self, weights: NDArray[np.float32]) -> NDArray[np.intp]:
        """Return the likeliest class of every row of leading weights."""
        if self.number == 1:
            return np.zeros(len(weights), np.intp)
        return _lowest(self.forms.T @ _quadratic((weights - self.centre).T))


@compiled
def _lowest(distances: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return in which row every column is lowest; several times as fast as argmin, which goes down each column."""
    number, columns = distances.shape
    least, found = distances[0].copy(), np.zeros(columns, np.intp)
    for row in range(1, number):
        for column in range(columns):
            if distances[row, column] < least[column]:
                least[column] = distances[row, column]
                found[column] = row
    return found


def _quadratic(w: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1, every weight and every product of two of the columns of `w`, (1 + r + r (r + 1) / 2, columns)."""
    size = len(w)
    out = np.empty((1 + size + size * (size + 1) // 2, w.shape[1]), w.dtype)
    out[0] = 1
    out[1 : size + 1] = w
    at = size + 1
    for i in range(size):
        np.multiply(out[i + 1 : size + 1], out[i + 1], out=out[at : at + size - i])
        at += size - i
    return out


@dataclass(frozen=True)
class TextureBasis:
    """The bases of patches whose noise is of one texture.

    Attributes:
        covariance: Of the noise over sigma, (voxels, voxels).
        lead: Patch over sigma to its leading weights, (voxels, LEADING).
        classes: By leading weights.
        mean: Of each class, whitened, (classes, voxels).
        vectors: Basis of each class, whitened, in columns, (classes, voxels, voxels).
        energy: Variance of the weight on each vector, noise (1) included, (classes, voxels).
    """

    covariance: NDArray[np.float64]
    lead: NDArray[np.float32]
    classes: Classes
    mean: NDArray[np.float32]
    vectors: NDArray[np.float32]
    energy: NDArray[np.float32]


STORED = ("covariance", "lead", "mean", "vectors", "energy")
"""Arrays of a `TextureBasis` in the store."""


@dataclass(frozen=True)
class PatchBasis:
    """A basis that is learned.

    Attributes:
        shape: Of a patch, voxels.
        spacing: mm, of the volumes it was learned on.
        covariance: Of their noise over sigma, all textures together, (voxels, voxels).
        textures: What was learned of each.
        provenance: Version, patches of every class, seed, and what it was learned on; no patient's data.
    """

    shape: Shape
    spacing: tuple[float, float, float]
    covariance: NDArray[np.float64]
    textures: tuple[TextureBasis, ...]
    provenance: dict[str, Any] = field(default_factory=dict)

    @property
    def classes(self) -> int:
        """How many classes all textures have."""
        return sum(len(texture.mean) for texture in self.textures)

    def nearest(self, noise: Noise) -> NDArray[np.intp]:
        """Return, for every texture of a series' noise, which of the basis's is most like it."""
        return _nearest(
            np.stack([texture.covariance for texture in self.textures]), noise.patch_covariances(self.shape)
        )

    def save(self, uri: str) -> None:
        """Write it to `uri`, complete or not at all."""
        group = stores.open_group(uri, mode="w")
        group.attrs.update({"complete": False})
        arrays: dict[str, NDArray[Any]] = {"covariance": self.covariance}
        for number, texture in enumerate(self.textures, start=1):
            arrays |= {f"{name}-{number}": getattr(texture, name) for name in STORED}
            arrays |= {f"class_{name}-{number}": getattr(texture.classes, name) for name in ("centre", "forms")}
        for name, values in arrays.items():
            group.create_array(name, data=np.ascontiguousarray(values))
        described: dict[str, Any] = {
            "kind": "patch",
            "version": VERSION,
            "shape": list(self.shape),
            "spacing": list(self.spacing),
            "textures": len(self.textures),
        }
        group.attrs.update({**described, "provenance": self.provenance, "complete": True})

    @classmethod
    def open(cls, uri: str) -> Self:
        """Read the basis at `uri`.

        Raises:
            CtbasisError: There is none, it is not complete, or of another kind or version.
        """
        group = open_complete(uri, "patch basis")
        found = group.attrs.get("kind"), group.attrs.get("version")
        if found != ("patch", VERSION):
            raise CtbasisError(
                f"the basis at {uri} is of kind {found[0]}, version {found[1]}",
                expected=f"kind patch, version {VERSION}",
                cause="it is a basis of slices (global mode), or another version of ctbasis wrote it",
                remedy="learn it again",
            )
        attributes: dict[str, Any] = dict(group.attrs)

        def read(name: str) -> NDArray[Any]:
            return np.asarray(array_of(group, name)[:])

        textures = tuple(
            TextureBasis(
                classes=Classes(read(f"class_centre-{number}"), read(f"class_forms-{number}")),
                **{name: read(f"{name}-{number}") for name in STORED},
            )
            for number in range(1, int(attributes["textures"]) + 1)
        )
        rows, columns, slices = attributes["shape"]
        dy, dx, dz = attributes["spacing"]
        return cls(
            shape=(rows, columns, slices),
            spacing=(dy, dx, dz),
            covariance=read("covariance"),
            textures=textures,
            provenance=attributes["provenance"],
        )


def _nearest(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return which covariance of `ours` is nearest to each of `theirs`."""
    apart = [[np.linalg.norm(one - other) for one in ours] for other in theirs]
    return np.asarray(np.argmin(apart, axis=1))


def whitening(covariance: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return C^(-1/2) and C^(1/2), symmetric, eigenvalues of C not below QUIETEST of their mean."""
    values, vectors = np.linalg.eigh(covariance)
    root = np.sqrt(np.maximum(values, QUIETEST * max(float(values.mean()), 1e-12)))
    return (vectors / root) @ vectors.T, (vectors * root) @ vectors.T


def learn(volume: Volume, noise: Noise, *, shape: Shape, classes: int = CLASSES, seed: int = 0) -> PatchBasis:
    """Learn a basis from the patches of `volume`.

    Args:
        volume: HU.
        noise: Its noise.
        shape: Of a patch.
        classes: Of every texture of the noise, at most. More fit finer anatomy and need more patches.
        seed: Of the sample and the classes.

    Raises:
        CtbasisError: The volume holds nothing but air.
    """
    return learn_together([volume], [noise], shape=shape, classes=classes, seed=seed)


def learn_together(
    volumes: Sequence[Volume],
    noises: Sequence[Noise],
    *,
    shape: Shape,
    classes: int = CLASSES,
    seed: int = 0,
    factor: Factor | None = None,
) -> PatchBasis:
    """Learn one basis from the patches of several volumes, whose noise differs in nothing but its sigma.

    Args:
        volumes: HU; the spacing is that of the first.
        noises: Of each.
        shape: Of a patch.
        classes: See `learn`.
        seed: See `learn`.
        factor: What makes the bases of rows; None for the eigenvectors of their Gram matrices.

    Raises:
        CtbasisError: The volumes hold nothing but air.
    """
    # The products are small: spread over cores they mostly wait for one another.
    with threadpool_limits(1, user_api="blas"):
        covariances, used = _shared(noises, shape)
        W = [whitening(covariance)[0].astype(np.float32) for covariance in covariances]
        sampled, learned = (_share(volumes, shape, most) for most in (SAMPLE, LEARNED))
        drawn = [
            Drawn(noise, shape, sampled, seed, tuple(map(int, textures)))
            for noise, textures in zip(noises, used, strict=True)
        ]
        parts = [
            part
            for one, volume in zip(drawn, volumes, strict=True)
            for part in volume.each(one, row_slabs(volume, shape), "patch basis: classes")
        ]
        few, texture = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        if not len(few):
            raise CtbasisError("the volume holds nothing but air", expected="a CT series of a body")
        rng = np.random.default_rng(seed)
        leads, mixtures = [], []
        for number, whiten in enumerate(W):
            own = few[texture == number]
            # Of the pass to come, which draws more of them.
            patches = len(own) * learned / sampled
            most = min(classes, max(1, int(patches / (ROOM * math.prod(shape)))))
            # A texture that hardly occurs has the classes of all.
            lead, mixture = _told_apart(own if len(own) > ENOUGH * LEADING else few, whiten, most, rng)
            leads.append(lead)
            mixtures.append(mixture)
        drawn = [replace(one, share=learned, seed=seed + 1) for one in drawn]
        rows = [ClassRows(one, tuple(W), tuple(leads), tuple(mixtures)) for one in drawn]
        bases = (factor or factor_gram)(volumes, rows)
    provenance = {
        "ctbasis": importlib.metadata.version("ctbasis"),
        "patches": [int(n) for n in bases.counts],
        "series": len(volumes),
        "seed": seed,
        "factored_by": bases.by,
    }
    of = rows[0].texture
    textures = tuple(
        TextureBasis(covariance, lead, mixture, *(array[of == number] for array in bases.arrays))
        for number, (covariance, lead, mixture) in enumerate(zip(covariances, leads, mixtures, strict=True))
    )
    mean = np.mean([noise.patch_covariance(shape) for noise in noises], axis=0)
    return PatchBasis(shape, volumes[0].spacing, mean, textures, provenance)


def _shared(noises: Sequence[Noise], shape: Shape) -> tuple[NDArray[np.float64], list[NDArray[np.intp]]]:
    """Return the textures of several noises, those of the first, and which of them each noise's are most like."""
    every = [noise.patch_covariances(shape) for noise in noises]
    used = [_nearest(every[0], theirs) for theirs in every]
    alike = np.concatenate(every), np.concatenate(used)
    return np.stack([alike[0][alike[1] == number].mean(axis=0) for number in range(len(every[0]))]), used


def _told_apart(
    rows: NDArray[np.float32], whiten: NDArray[np.float32], classes: int, rng: np.random.Generator
) -> tuple[NDArray[np.float32], Classes]:
    """Return what gives the leading weights of rows over sigma, (voxels, LEADING), and the classes by them."""
    white = rows @ whiten
    # A first basis, of all classes together, only to find the leading directions.
    leading = np.linalg.eigh((white.T @ white).astype(np.float64))[1][:, ::-1][:, :LEADING]
    lead = (whiten @ leading).astype(np.float32)
    return lead, fit_classes(rows @ lead, classes, rng)


def _share(volumes: Sequence[Volume], shape: Shape, most: int) -> float:
    """Return the share of the volumes' patches that is drawn, so that there are about `most`."""
    places = sum(
        math.prod(max(0, size - edge + 1) for size, edge in zip(volume.shape, shape, strict=True)) for volume in volumes
    )
    return min(1.0, most / max(1, places))


def row_slabs(volume: Volume, shape: Shape) -> list[Slab]:
    """Cut a volume into the slabs of which rows are drawn."""
    return list(slabs(volume.shape[0], height=HEIGHT, halo=shape[0] - 1))


@dataclass(frozen=True)
class Drawn:
    """Rows, HU over sigma, of patches drawn evenly from all of a slab that hold more than air.

    The draw is the slab's own: whoever does it, and in whatever order, the same seed gives the same rows.

    Attributes:
        noise: Of the volume.
        shape: Of a patch.
        share: Of patches that is drawn.
        seed: Of the draw.
        textures: Those of the basis that the noise's are taken for.
    """

    noise: Noise
    shape: Shape
    share: float
    seed: int
    textures: tuple[int, ...] = (0,)

    def __call__(self, volume: Volume, slab: Slab) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
        """Return the rows, (patches, voxels), and the texture of each."""
        rows, columns, _ = volume.shape
        hu = volume.read(slab.low, slab.high)
        grid = Grid(self.shape, (len(hu), *volume.shape[1:]))
        # Perhaps none: the last slab of a volume may hold no place of a patch.
        lines = max(0, min(slab.stop, rows - self.shape[0] + 1) - slab.first)
        across, along = (size - edge + 1 for size, edge in zip(volume.shape[1:], self.shape[1:], strict=True))
        rng = np.random.default_rng((self.seed, slab.first))
        line, column, place = np.nonzero(rng.random((lines, across, along), np.float32) < self.share)
        patches = np.ravel_multi_index((line + slab.first - slab.low, column, place), grid.slab)
        patches = patches[(grid.rows(hu, patches) > EMPTY_AIR).any(axis=1)]
        texture = grid.middles(self.noise.texture_rows(slab.low, slab.high, columns), patches)
        hu /= self.noise.sigma_rows(slab.low, slab.high, columns)
        return grid.rows(hu, patches), np.asarray(self.textures)[texture]


@dataclass(frozen=True)
class ClassRows:
    """The whitened rows of a slab, class by class, those of a texture after those of the one before.

    Attributes:
        drawn: Draws them.
        whiten: C^(-1/2) of every texture, (voxels, voxels).
        lead: Of every texture, see `TextureBasis`.
        mixtures: The classes of every texture.
    """

    drawn: Drawn
    whiten: tuple[NDArray[np.float32], ...]
    lead: tuple[NDArray[np.float32], ...]
    mixtures: tuple[Classes, ...]

    @property
    def size(self) -> int:
        """Voxels of a row."""
        return len(self.whiten[0])

    @property
    def texture(self) -> NDArray[np.intp]:
        """The texture of every class."""
        return np.repeat(np.arange(len(self.mixtures)), [mixture.number for mixture in self.mixtures])

    def __call__(self, volume: Volume, slab: Slab) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Yield each class that occurs, and its rows."""
        rows, texture = self.drawn(volume, slab)
        before = 0
        for number, (whiten, lead, mixture) in enumerate(zip(self.whiten, self.lead, self.mixtures, strict=True)):
            own = rows[texture == number]
            order, parts = by_class(mixture.of(own @ lead), mixture.number)
            white = own[order] @ whiten
            for chosen, part in parts:
                yield before + chosen, white[part]
            before += mixture.number

    def sums(self, volume: Volume, slab: Slab) -> Sums:
        """Return sum, Gram matrix and number of the rows of every class: what slabs add up to."""
        return self.summed(self(volume, slab))

    def summed(self, parts: Iterable[tuple[int, NDArray[np.float32]]]) -> Sums:
        """Return the same of rows that are there, class by class."""
        size, number = self.size, len(self.texture)
        sums, grams, counts = np.zeros((number, size)), np.zeros((number, size, size)), np.zeros(number, np.intp)
        for chosen, part in parts:
            sums[chosen] = part.sum(axis=0, dtype=np.float64)
            grams[chosen] = part.T @ part
            counts[chosen] = len(part)
        return sums, grams, counts


@dataclass(frozen=True)
class Bases:
    """The basis of every class.

    Attributes:
        mean: (classes, voxels).
        vectors: In columns, the most energetic first, (classes, voxels, voxels).
        energy: (classes, voxels).
        counts: Rows that each class had, (classes,).
        by: What made them, in words.
    """

    mean: NDArray[np.float32]
    vectors: NDArray[np.float32]
    energy: NDArray[np.float32]
    counts: NDArray[np.intp]
    by: str

    @property
    def arrays(self) -> tuple[NDArray[np.float32], ...]:
        """Mean, vectors and energy, as a `TextureBasis` has them."""
        return self.mean, self.vectors, self.energy


Factor: TypeAlias = "Callable[[Sequence[Volume], Sequence[ClassRows]], Bases]"
"""What makes the bases of the rows of several volumes."""


def factor_gram(volumes: Sequence[Volume], rows: Sequence[ClassRows]) -> Bases:
    """Return the eigenvectors of every class's Gram matrix about its mean."""
    every = [
        one.total(of.sums, row_slabs(one, of.drawn.shape), "patch basis") for one, of in zip(volumes, rows, strict=True)
    ]
    sums, grams, counts = (np.sum(arrays, axis=0) for arrays in zip(*every, strict=True))
    return bases_of(sums, grams, counts, rows[0].texture)


def bases_of(
    sums: NDArray[np.float64], grams: NDArray[np.float64], counts: NDArray[np.intp], texture: NDArray[np.intp]
) -> Bases:
    """Return the bases from sum, Gram matrix and number of every class's rows, and the texture that it is of."""
    size = sums.shape[1]
    mean, energy = np.empty(sums.shape, np.float32), np.empty(sums.shape, np.float32)
    vectors = np.empty(grams.shape, np.float32)
    for number, own in enumerate(texture):
        # A class that the sample had and the volume hardly has gets the basis of its texture's, or of all.
        for alike in (np.arange(len(texture)) == number, texture == own, np.full(len(texture), fill_value=True)):
            n = int(counts[alike].sum())
            if n >= 2 * size:
                break
        centre = sums[alike].sum(axis=0) / max(n, 1)
        values, basis = np.linalg.eigh(grams[alike].sum(axis=0) / max(n, 1) - np.outer(centre, centre))
        mean[number], vectors[number], energy[number] = centre, basis[:, ::-1], np.maximum(values[::-1], 0)
    return Bases(mean, vectors, energy, counts, "eigenvectors of Gram matrices")


def by_class(labels: NDArray[np.integer], number: int) -> tuple[NDArray[np.intp], list[tuple[int, slice]]]:
    """Return the order that puts rows class by class, and each class that occurs in `labels` with its part of it."""
    # Numbers of 16 bits are sorted by radix.
    order = np.argsort(labels.astype(np.uint16), kind="stable")
    ends = np.searchsorted(labels[order], np.arange(number + 1))
    parts = [(chosen, slice(ends[chosen], ends[chosen + 1])) for chosen in range(number)]
    return order, [(chosen, part) for chosen, part in parts if part.start < part.stop]


def fit_classes(weights: NDArray[np.float32], classes: int, rng: np.random.Generator) -> Classes:
    """Fit a mixture of at most `classes` Gaussians by hard assignment, begun with k-means.

    Args:
        weights: Leading weights of a sample, (patches, leading).
        classes: How many at most; a class of too few patches for its covariance is given up.
        rng: Draws the first centres.
    """
    centre = weights.mean(axis=0)
    sample = (weights - centre).astype(np.float64)
    number = max(1, min(classes, len(sample) // (ENOUGH * sample.shape[1])))
    means = sample[rng.choice(len(sample), number, replace=False)]
    labels = np.zeros(len(sample), np.intp)
    for _ in range(ROUNDS):
        labels = np.asarray(((means**2).sum(axis=1) - 2 * sample @ means.T).argmin(axis=1))
        means = np.stack([sample[labels == k].mean(axis=0) if (labels == k).any() else means[k] for k in range(number)])
    for _ in range(ROUNDS):
        fitted = Classes(centre, _forms(sample, labels))
        labels = fitted.of(weights)
    return fitted


ENOUGH = 4
"""Patches for each leading weight that a class needs."""

ROUNDS = 8


def _forms(sample: NDArray[np.float64], labels: NDArray[np.intp]) -> NDArray[np.float32]:
    """Fit a Gaussian to every class that has patches enough; its variances are at least the noise's, one."""
    size = sample.shape[1]
    enough = [label for label in np.unique(labels) if (labels == label).sum() >= ENOUGH * size]
    parts = [sample[labels == label] for label in enough] or [sample]
    upper = np.triu_indices(size)
    forms = []
    for part in parts:
        mean = part.mean(axis=0)
        values, vectors = np.linalg.eigh((part - mean).T @ (part - mean) / len(part))
        values = np.maximum(values, 1.0)
        inverse = (vectors / values) @ vectors.T
        constant = mean @ inverse @ mean + np.log(values).sum() - 2 * np.log(len(part) / len(sample))
        both = np.where(upper[0] == upper[1], 1.0, 2.0) * inverse[upper]
        forms.append(np.concatenate([[constant], -2 * inverse @ mean, both]))
    return np.stack(forms, axis=1).astype(np.float32)
