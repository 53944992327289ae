"""A CT volume in memory: HU with geometry, the voxels that are no measurement, and the DICOM headers to write it again.

The axes of the array are (slices, rows, columns). Positions are in mm in the patient coordinate system of DICOM, LPS: x
increases to the patient's left, y to the back, z to the head (PS3.3 C.7.6.2.1.1).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from ctbasis.dicom.excluded_voxels import excluded_voxels
from ctbasis.errors import CtbasisError
from ctbasis.storage.voxels import AIR

if TYPE_CHECKING:
    from collections.abc import Mapping

    import xarray
    from numpy.typing import DTypeLike, NDArray

    from ctbasis.dicom.derived_series import Derivation

    ArrayLike: TypeAlias = "Volume | NDArray[Any] | xarray.DataArray"
    """A volume, or an array of HU (slices, rows, columns)."""

AXES = ("z", "y", "x")
"""Dimensions of a DataArray: slices, rows, columns."""

LPS_AXES = ((0.0, 0.0, 1.0), (0.0, 1.0, 0.0), (1.0, 0.0, 0.0))
"""Directions of the axes of an axial volume of a patient who lies on the back, head first."""

ORIENTATION_TOLERANCE = 1e-2
"""How far the directions may be from unit length and right angles, as for ImageOrientationPatient."""


@dataclass(frozen=True, eq=False)
class Volume:
    """A CT volume: HU, where its voxels are, and what is needed to write it as DICOM.

    `ctbasis.read` returns one; `Volume(hu, spacing)` makes one of an array. NumPy functions take a volume in place of
    its array: `np.asarray(volume)` is `volume.hu`. `volume[a:b, c:d, e:f]` is a part of it.

    Attributes:
        hu: Hounsfield units, (slices, rows, columns), int16 if all values are whole numbers, else float32. Voxels that
            are set aside have the value that their file stores, such as -2000 for padding.
        spacing: Distance in mm between slices, rows and columns.
        origin: Position (x, y, z) of the centre of voxel [0, 0, 0], mm, LPS.
        direction: Unit vectors of the axes, LPS, (3, 3): row 0 points from slice to slice, row 1 from row to row, row 2
            from column to column.
        set_aside: Voxels that no function changes, bool, of the shape of `hu`: padding, the air around the patient, and
            areas that the scanner clipped. By default those that `ctbasis.read` would find in `hu`.
        headers: DICOM file of each slice without pixel data, or empty: then the volume cannot be written as DICOM.
        qc: What reading tolerated and set aside, with the keys of qc.json: `series`, `slices` (one entry a slice),
            `set_aside` (one entry a file). Empty for a volume made of an array.
        derivation: How the volume was computed, for DICOM; None for a volume as read.

    Raises:
        CtbasisError: `hu` is no three-dimensional array of real, finite numbers, or another attribute does not fit it.

    Examples:
        >>> import numpy as np, ctbasis
        >>> volume = ctbasis.Volume(np.zeros((4, 16, 16), np.int16), spacing=(2.5, 0.7, 0.7))
        >>> volume
        Volume(4 x 16 x 16 int16 HU, spacing 2.5 x 0.7 x 0.7 mm)
        >>> volume[1:3, :, 4:12].origin
        (2.8, 0.0, 2.5)
        >>> float(np.mean(volume))
        0.0
    """

    hu: NDArray[Any]
    spacing: tuple[float, float, float]
    origin: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: NDArray[np.float64] = field(default_factory=lambda: np.array(LPS_AXES))
    set_aside: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))
    headers: tuple[bytes, ...] = ()
    qc: Mapping[str, Any] = field(default_factory=dict)
    derivation: Derivation | None = None

    def __post_init__(self) -> None:
        hu = _checked_hu(self.hu)
        direction = np.asarray(self.direction, np.float64)
        spacing = _checked_numbers("spacing", self.spacing, positive=True)
        set_aside = np.asarray(self.set_aside, np.bool_)
        if not set_aside.size:
            set_aside = np.stack([excluded_voxels(image, (spacing[1], spacing[2])) for image in hu])
        if set_aside.shape != hu.shape:
            raise CtbasisError(f"set_aside has the shape {set_aside.shape}", expected=f"that of hu, {hu.shape}")
        if self.headers and len(self.headers) != len(hu):
            raise CtbasisError(
                f"{len(self.headers)} headers for {len(hu)} slices", expected="one header a slice, or none"
            )
        if direction.shape != (3, 3) or np.abs(direction @ direction.T - np.eye(3)).max() > ORIENTATION_TOLERANCE:
            raise CtbasisError("direction is not three unit vectors at right angles", expected="an array (3, 3)")
        object.__setattr__(self, "hu", hu)
        object.__setattr__(self, "spacing", spacing)
        object.__setattr__(self, "origin", _checked_numbers("origin", self.origin, positive=False))
        object.__setattr__(self, "direction", direction)
        object.__setattr__(self, "set_aside", set_aside)

    def __repr__(self) -> str:
        spacing = " x ".join(f"{mm:.3g}" for mm in self.spacing)
        return f"Volume({' x '.join(map(str, self.shape))} {self.hu.dtype} HU, spacing {spacing} mm)"

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        return np.array(self.hu, dtype, copy=copy)

    def __getitem__(self, key: slice | tuple[slice, ...]) -> Self:
        ranges = _checked_ranges(key, self.shape)
        x, y, z = (self.affine @ [*(part.start for part in ranges), 1])[:3].round(9).tolist()
        along, rows, columns = ranges
        # A header describes the whole image of its slice.
        whole_images = (rows.stop - rows.start, columns.stop - columns.start) == self.shape[1:]
        qc = dict(self.qc)
        if "slices" in qc:
            qc["slices"] = qc["slices"][along]
        return replace(
            self,
            hu=self.hu[ranges],
            origin=(x, y, z),
            set_aside=self.set_aside[ranges],
            headers=self.headers[along] if whole_images else (),
            qc=qc,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, rows and columns."""
        slices, rows, columns = self.hu.shape
        return slices, rows, columns

    @property
    def SeriesInstanceUID(self) -> str:  # noqa: N802 - DICOM's keyword
        """SeriesInstanceUID of the series that was read; empty for a volume made of an array."""
        return str(self.qc.get("series", {}).get("SeriesInstanceUID", ""))

    @property
    def affine(self) -> NDArray[np.float64]:
        """Matrix (4, 4) that maps (slice, row, column, 1) to (x, y, z, 1), mm, LPS."""
        affine = np.eye(4)
        affine[:3, :3] = (self.direction * np.array(self.spacing)[:, None]).T
        affine[:3, 3] = self.origin
        return affine

    def with_hu(self, hu: NDArray[Any], *, derivation: Derivation | None = None) -> Self:
        """Return a volume with other HU and the same geometry and headers; voxels set aside keep their value.

        Args:
            hu: HU of the same shape.
            derivation: How they were computed.

        Raises:
            CtbasisError: The shape differs, or a value is not finite.
        """
        if np.shape(hu) != self.shape:
            raise CtbasisError(f"HU of shape {np.shape(hu)}", expected=f"the shape of the volume, {self.shape}")
        kept = np.where(self.set_aside, self.hu, hu)
        return replace(self, hu=kept, derivation=derivation)

    def clipped_hu(self) -> NDArray[Any]:
        """Return the HU that the matrix A holds: those of the volume, and -1000 where a voxel is set aside."""
        clipped: NDArray[Any] = np.where(self.set_aside, self.hu.dtype.type(AIR), self.hu)
        return clipped

    def fingerprint(self) -> str:
        """Return the SHA-256 digest of the HU, in hexadecimal."""
        return hashlib.sha256(np.ascontiguousarray(self.hu).tobytes()).hexdigest()

    def to_xarray(self) -> xarray.DataArray:
        """Return the HU as a labelled array with dimensions z, y, x.

        Coordinates are distances in mm from the first voxel along each axis; `set_aside` is a coordinate too. The
        attributes hold `units`, `origin` and `direction`. `Volume.from_xarray` reverses it, without the headers.

        Raises:
            CtbasisError: xarray is not installed.

        Examples:
            >>> import numpy as np, ctbasis
            >>> labelled = ctbasis.Volume(np.zeros((4, 8, 8)), (2.5, 0.7, 0.7)).to_xarray()
            >>> labelled.dims, float(labelled.z[-1])
            (('z', 'y', 'x'), 7.5)
        """
        try:
            import xarray
        except ImportError as error:
            raise CtbasisError(
                "xarray is not installed", expected="the extra xarray", remedy="pip install 'ctbasis[xarray]'"
            ) from error
        coordinates: dict[str, Any] = {
            name: np.arange(size) * mm for name, size, mm in zip(AXES, self.shape, self.spacing, strict=True)
        }
        return xarray.DataArray(
            self.hu,
            dims=AXES,
            coords={**coordinates, "set_aside": (AXES, self.set_aside)},
            name="hu",
            attrs={"units": "HU", "origin": list(self.origin), "direction": self.direction.tolist()},
        )

    @classmethod
    def from_xarray(cls, labelled: xarray.DataArray) -> Self:
        """Return the volume of a labelled array.

        Args:
            labelled: HU with dimensions z, y, x in any order. The spacing is the step of the coordinates in mm; that of
                a single slice is taken from the rows. The attributes `origin` and `direction` and the coordinate
                `set_aside` are used where they are present.

        Raises:
            CtbasisError: The dimensions are others, one has no coordinate, or the steps of a coordinate differ by more
                than a percent.
        """
        if set(labelled.dims) != set(AXES):
            raise CtbasisError(
                f"a DataArray with dimensions {', '.join(map(str, labelled.dims))}", expected=", ".join(AXES)
            )
        ordered = labelled.transpose(*AXES)
        geometry = {name: ordered.attrs[name] for name in ("origin", "direction") if name in ordered.attrs}
        if "set_aside" in ordered.coords:
            geometry["set_aside"] = ordered.coords["set_aside"].transpose(*AXES).to_numpy()
        dy, dx = _step(ordered, "y"), _step(ordered, "x")
        dz = _step(ordered, "z") if ordered.sizes["z"] > 1 else dy
        return cls(ordered.to_numpy(), (dz, dy, dx), **geometry)


def as_volume(image: ArrayLike, spacing: tuple[float, float, float] | None = None) -> Volume:
    """Return `image` as a volume.

    Args:
        image: A volume, a DataArray, or an array of HU, (slices, rows, columns).
        spacing: Distance in mm between slices, rows and columns, for an array.

    Raises:
        CtbasisError: `image` is no volume and cannot be made one, an array comes without `spacing`, or a volume with
            it.
    """
    if isinstance(image, np.ndarray):
        if spacing is None:
            raise CtbasisError(
                "an array of HU without spacing",
                expected="spacing=(mm between slices, mm between rows, mm between columns)",
                cause="an array does not know the size of its voxels, on which noise and patches depend",
            )
        return Volume(image, spacing)
    if spacing is not None:
        raise CtbasisError("spacing is given for an image that has its own", expected="spacing for an array alone")
    if isinstance(image, Volume):
        return image
    if hasattr(image, "dims") and hasattr(image, "coords"):
        return Volume.from_xarray(image)
    raise CtbasisError(
        f"an image of type {type(image).__name__}",
        expected="a Volume, an array of HU (slices, rows, columns) or a DataArray",
    )


def _checked_hu(hu: Any) -> NDArray[Any]:
    values = np.asarray(hu)
    if values.ndim != 3 or not values.size:  # noqa: PLR2004 - slices, rows, columns
        raise CtbasisError(f"an array of shape {values.shape}", expected="HU, (slices, rows, columns), not empty")
    if values.dtype.kind not in "iuf":
        raise CtbasisError(f"an array of dtype {values.dtype}", expected="HU as integers or floating-point numbers")
    if values.dtype.kind == "f":
        if not np.isfinite(values).all():
            where = tuple(int(index) for index in np.argwhere(~np.isfinite(values))[0])
            raise CtbasisError(
                f"HU at {where} (slice, row, column) is {values[where]}",
                expected="finite numbers",
                remedy="fill voxels without a measurement with a value below -1000, such as -2000; they are set aside",
            )
        return values.astype(np.float32, copy=False)
    limits = np.iinfo(np.int16)
    # The lowest number means "no value" in a store.
    fits = values.min() > limits.min and values.max() <= limits.max
    return values.astype(np.int16 if fits else np.float32, copy=False)


def _checked_numbers(name: str, numbers: Any, *, positive: bool) -> tuple[float, ...]:
    values = tuple(float(number) for number in numbers)
    if len(values) != 3 or not np.isfinite(values).all() or (positive and min(values) <= 0):  # noqa: PLR2004 - axes
        raise CtbasisError(
            f"{name} is {values}", expected=f"three {'positive ' if positive else ''}numbers, mm, one for each axis"
        )
    return values


def _checked_ranges(key: slice | tuple[slice, ...], shape: tuple[int, int, int]) -> tuple[slice, slice, slice]:
    keys = (*(key if isinstance(key, tuple) else (key,)), slice(None), slice(None))[:3]
    if not all(isinstance(part, slice) for part in keys):
        raise CtbasisError(
            "a volume is indexed by something other than ranges",
            expected="ranges such as volume[10:20, 64:192]",
            remedy="index the array volume.hu",
        )
    ranges = [part.indices(size) for part, size in zip(keys, shape, strict=True)]
    if any(step != 1 or stop <= start for start, stop, step in ranges):
        raise CtbasisError("a range of a volume is empty or has a step", expected="ranges such as volume[10:20]")
    along, rows, columns = (slice(start, stop) for start, stop, _ in ranges)
    return along, rows, columns


def _step(labelled: xarray.DataArray, name: str) -> float:
    if name not in labelled.coords or labelled.sizes[name] < 2:  # noqa: PLR2004 - one has no step
        raise CtbasisError(f"the dimension {name} has no coordinate with a step", expected="distances in mm")
    steps = np.diff(np.asarray(labelled.coords[name], np.float64))
    step = float(np.median(steps))
    if step <= 0 or np.abs(steps - step).max() > 0.01 * step:
        raise CtbasisError(f"the coordinate {name} does not increase in equal steps", expected="mm, in equal steps")
    return step
