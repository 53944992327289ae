"""The kinds of stores and the arrays of each kind. Every array that ctbasis stores has an entry in this table.

`ctbasis/storage/array_store.py` refuses an array that differs from its entry, and a store that lacks an array or has an
array without an entry. A dimension is named by a letter or a word; a name has the same size everywhere in a store. A
name that begins with a dot has the same size only within the arrays of one number (`sigma-1`, `texture-1`).
"""

from __future__ import annotations

from dataclasses import dataclass

FORMAT = "ctbasis"
"""Value of the root attribute `format`, by which a store of ctbasis is recognized."""

VERSION = 4
"""Version of the layout of all stores. Version 3 clipped A at -1000 HU, and had the noise of whole series instead of
that of their parts. Versions 1 and 2 had no manifest, and checksums only on some arrays."""


@dataclass(frozen=True)
class ArraySchema:
    """The arrays of one name.

    Attributes:
        dtypes: The possible dtypes.
        shape: Name of each dimension. `n+1` is the size of `n` plus one.
        chunks: Name of each edge of a chunk; empty if the array is one chunk.
        compressed: Whether chunks are compressed (LZ4 with bit shuffling).
        absent: Whether NaN stands for "no value". All other numbers of all arrays are finite.
        per: Attribute of the store that counts the arrays, an integer or a list. The name of such arrays ends in `*`,
            which stands for the numbers from 1. Empty for a single array.
        temporary: Whether the array exists only until the store is complete.
    """

    dtypes: tuple[str, ...]
    shape: tuple[str, ...]
    chunks: tuple[str, ...] = ()
    compressed: bool = False
    absent: bool = False
    per: str = ""
    temporary: bool = False


@dataclass(frozen=True)
class StoreSchema:
    """A kind of store.

    Attributes:
        kind: The root attribute `kind`.
        title: What the store holds, for error messages.
        remedy: What a user does to get the store again.
        arrays: Schema of each array by its name.
        members: Attribute that counts stores inside this one, called `1`, `2`, ...; empty if there are none.
        member_kind: Kind of those stores.
        open_names: Whether arrays have other names than those in the table: the schema with the empty name then
            describes all of them, and the store never becomes complete.
    """

    kind: str
    title: str
    remedy: str
    arrays: dict[str, ArraySchema]
    members: str = ""
    member_kind: str = ""
    open_names: bool = False


FLOATS = ("float32", "float64")
VOXELS = ("int16", "float32", "float64")

_ASIDE = ArraySchema(VOXELS, ("m", "n"), ("block", "group"), compressed=True, absent=True)
_HEADERS = {
    "headers": ArraySchema(("uint8",), ("bytes",), ("piece",)),
    "header_offsets": ArraySchema(("int64",), ("n+1",)),
}
_SVD = "run the svd step again (`ctbasis run`, or `ctbasis factor`)"
_LEARN = "learn the basis again: `ctbasis run --mode patch`, or `ctbasis denoise`"

MATRIX = StoreSchema(
    "matrix",
    "matrix",
    "run the matrix step again (`ctbasis run`)",
    {"A": ArraySchema(VOXELS, ("m", "n"), ("block", "group")), "aside": _ASIDE, **_HEADERS},
)

FACTORS = StoreSchema(
    "factors",
    "basis",
    _SVD,
    {
        "U": ArraySchema(FLOATS, ("m", "k"), ("block", "k")),
        "s": ArraySchema(("float64",), ("k",)),
        "V": ArraySchema(("float64",), ("n", "k")),
        "weights": ArraySchema(("float64",), ("n", "k")),
        "aside": _ASIDE,
        **_HEADERS,
        "sketch": ArraySchema(("float64",), ("m", "l"), ("block", "l"), temporary=True),
    },
)

DENOISED = StoreSchema(
    "denoised",
    "denoised matrix",
    "run the svd step again (`ctbasis run --mode patch`)",
    {
        **MATRIX.arrays,
        "sigma-*": ArraySchema(FLOATS, (".y", ".x", ".z"), per="parts"),
        "covariance-*": ArraySchema(FLOATS, (".ry", ".rx", ".rz"), per="parts"),
        "textures-*": ArraySchema(FLOATS, (".textures", ".ty", ".tx", ".tz"), per="parts"),
        "texture-*": ArraySchema(("uint8",), (".y", ".x", ".z"), per="parts"),
    },
)

PATCH_BASIS = StoreSchema(
    "patch-basis",
    "basis",
    _LEARN,
    {
        "covariance": ArraySchema(("float64",), ("voxels", "voxels")),
        "covariance-*": ArraySchema(("float64",), ("voxels", "voxels"), per="textures"),
        "lead-*": ArraySchema(FLOATS, ("voxels", "leading"), per="textures"),
        "mean-*": ArraySchema(FLOATS, (".classes", "voxels"), per="textures"),
        "vectors-*": ArraySchema(FLOATS, (".classes", "voxels", "voxels"), per="textures"),
        "energy-*": ArraySchema(FLOATS, (".classes", "voxels"), per="textures"),
        "class_centre-*": ArraySchema(FLOATS, ("leading",), per="textures"),
        "class_forms-*": ArraySchema(FLOATS, ("monomials", ".classes"), per="textures"),
    },
)

PATCH_BASES = StoreSchema("patch", "basis", _LEARN, {}, members="count", member_kind="patch-basis")

PATCH_ROWS = StoreSchema(
    "patch-rows",
    "patch rows",
    "run the svd step again",
    {"": ArraySchema(("float32",), ("rows", "voxels"), ("piece", "voxels"))},
    open_names=True,
)

SCHEMAS = {schema.kind: schema for schema in (MATRIX, FACTORS, DENOISED, PATCH_BASIS, PATCH_BASES, PATCH_ROWS)}
"""Every kind of store."""
