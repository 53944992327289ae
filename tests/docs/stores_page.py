"""Write docs/reference/stores.md from ctbasis/storage/schemas.py: `make reference`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ctbasis.storage.schemas import FORMAT, SCHEMAS, VERSION

if TYPE_CHECKING:
    from ctbasis.storage.schemas import ArraySchema, StoreSchema

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "stores.md"

INTRODUCTION = f"""# Stores

<!-- Written by `make reference` from ctbasis/storage/schemas.py. A test compares the two. -->

Steps pass arrays to each other in stores: zarr 3 groups, in a folder or below `s3://bucket/prefix`, which
`zarr.open_group` reads. The root attribute `format` is `{FORMAT}`, `kind` is one of the headings below, and `version`
is {VERSION}. [How stores are checked](outputs.md#how-stores-are-checked) describes the other attributes and the
checksums; [outputs](outputs.md#stores-during-a-run) says which of them a run keeps.

An array has one of the listed types. A dimension is named: m is the number of voxels of a slice, n the number of slices
of all series, k the rank. A name has one size in all arrays of a store; a name that begins with a dot has one size in
the arrays of one number. An asterisk in the name of an array stands for these numbers, from 1. *Chunks* names the edges
of a chunk; without it an array is one chunk. NaN stands for "no value" where the last column says so, and is refused
everywhere else, as infinity is.
"""


def page() -> str:
    """Return the page: one section for each kind of store."""
    return "\n".join([INTRODUCTION, *(_section(schema) for schema in SCHEMAS.values())])


def _section(schema: StoreSchema) -> str:
    lines = [f"## {schema.kind}", "", f"A {schema.title}. To get it again: {schema.remedy}."]
    if schema.members:
        lines += [
            "",
            f"It holds stores of the kind `{schema.member_kind}`: `1`, `2`, ..., as many as `{schema.members}` says.",
        ]
    if schema.open_names:
        lines += ["", "It exists only during a step. Its arrays have any name, and one layout:"]
    if schema.arrays:
        lines += ["", "| array | type | shape | chunks | notes |", "| --- | --- | --- | --- | --- |"]
        lines += [_row(name, array) for name, array in schema.arrays.items()]
    return "\n".join([*lines, ""])


def _row(name: str, array: ArraySchema) -> str:
    notes = [
        *(["compressed (LZ4 with bit shuffling)"] if array.compressed else []),
        *(["NaN is no value"] if array.absent else []),
        *([f"one for each of `{array.per}`"] if array.per else []),
        *(["only until the store is complete"] if array.temporary else []),
    ]
    shape = ", ".join(array.shape)
    cells = (
        f"`{name}`" if name else "any",
        ", ".join(array.dtypes),
        f"({shape})",
        f"({', '.join(array.chunks)})" if array.chunks else "",
        "; ".join(notes),
    )
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
