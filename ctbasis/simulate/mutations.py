"""Damage to DICOM files, at random and at chosen elements; the same seed gives the same damage."""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pydicom

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from pydicom.dataset import Dataset

    Damage = Callable[[bytearray, list["Element"], random.Random], None]

SHORT_VRS = {"AE", "AS", "AT", "CS", "DA", "DS", "DT", "FL", "FD", "IS", "LO", "LT", "PN", "SH", "SL", "SS", "ST", "TM"}
SHORT_VRS |= {"UI", "UL", "US"}
"""Value representations whose length field has 2 bytes in explicit VR transfer syntaxes (PS3.5 7.1.2)."""

BOUNDARY_NUMBERS = (
    0,
    1,
    2,
    3,
    8,
    0xFF,
    0x7FFF,
    0xFFFE,
    0xFFFF,
    0x10000,
    0x7FFFFFFF,
    0x80000000,
    0xFFFFFFF0,
    0xFFFFFFFE,
    0xFFFFFFFF,
)
"""Lengths and numbers at the limits of a parser's arithmetic."""

TEXTS = (
    b"",
    b"-1",
    b"0",
    b"nan",
    b"inf",
    b"1e308",
    b"-1e-308",
    b"999999999999",
    b"1\\2",
    b"\\\\\\",
    b"\xff\xfe",
    b"2.5e",
)
"""Invalid values for elements that hold a number or a UID."""


@dataclass(frozen=True)
class Element:
    """Position of a data element in a file, in bytes from the beginning.

    Attributes:
        tag: Position of the tag.
        length: Position of the length field.
        length_size: Bytes of the length field, 2 or 4.
        value: Position of the value.
        size: Bytes of the value.
    """

    tag: int
    length: int
    length_size: int
    value: int
    size: int


def elements(content: bytes) -> list[Element]:
    """Return the elements of a file, including those in sequences; an empty list for a deflated data set."""
    ds = pydicom.dcmread(io.BytesIO(content), force=True)
    if ds.file_meta.get("TransferSyntaxUID") == "1.2.840.10008.1.2.1.99":
        return []
    implicit, little = ds.original_encoding
    listed = _elements(ds, content, 0, implicit=bool(implicit), little=bool(little))
    return sorted(listed, key=lambda element: element.tag)


def _elements(ds: Dataset, content: bytes, base: int, *, implicit: bool, little: bool) -> list[Element]:
    """Return the elements of a data set.

    pydicom counts positions of elements that it parses lazily from the sequence that contains them, at `base`.
    """
    listed = []
    for tag in list(ds.keys()):
        raw: Any = ds.get_item(tag)
        inner = base
        if raw.is_raw:
            short = not implicit and raw.VR in SHORT_VRS
            size = 2 if short else 4
            head = 8 if implicit or short else 12
            name = struct.pack("<HH" if little else ">HH", tag.group, tag.element)
            inner = next(
                (
                    at
                    for at in (base, 0)
                    if content[at + raw.value_tell - head : at + raw.value_tell - head + 4] == name
                ),
                -1,
            )
            if inner < 0:
                continue
            value = inner + raw.value_tell
            listed.append(Element(value - head, value - size, size, value, len(raw.value or b"")))
            inner = value
        if ds[tag].VR == "SQ":
            for item in ds[tag].value:
                listed += _elements(item, content, inner, implicit=implicit, little=little)
    return listed


def mutated(content: bytes, places: list[Element], rng: random.Random) -> bytes:
    """Return `content` with one to four damages.

    Args:
        content: A DICOM file.
        places: Its elements; without them only damages at random positions are done.
        rng: Random number generator.
    """
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        if damaged:
            rng.choice(DAMAGES if places else BLIND)(damaged, places, rng)
    return bytes(damaged)


def _flip(content: bytearray, _: list[Element], rng: random.Random) -> None:
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)


def _flip_in_header(content: bytearray, _: list[Element], rng: random.Random) -> None:
    content[rng.randrange(min(len(content), 1200))] ^= 1 << rng.randrange(8)


def _overwrite(content: bytearray, _: list[Element], rng: random.Random) -> None:
    at = rng.randrange(len(content))
    size = min(rng.randrange(1, 32), len(content) - at)
    content[at : at + size] = rng.choice((rng.randbytes(size), bytes(size), b"\xff" * size))


def _truncate(content: bytearray, _: list[Element], rng: random.Random) -> None:
    del content[rng.randrange(len(content)) :]


def _cut_out(content: bytearray, _: list[Element], rng: random.Random) -> None:
    at = rng.randrange(len(content))
    del content[at : at + rng.randrange(1, 64)]


def _repeat(content: bytearray, _: list[Element], rng: random.Random) -> None:
    at = rng.randrange(len(content))
    content[at:at] = content[at : at + rng.randrange(1, 256)]


def _swap_tags(content: bytearray, places: list[Element], rng: random.Random) -> None:
    one, other = rng.choice(places).tag, rng.choice(places).tag
    content[one : one + 4], content[other : other + 4] = content[other : other + 4], content[one : one + 4]


def _swap_elements(content: bytearray, places: list[Element], rng: random.Random) -> None:
    first, second = sorted((rng.choice(places), rng.choice(places)), key=lambda place: place.tag)
    if first.value + first.size <= second.tag:
        one = content[first.tag : first.value + first.size]
        other = content[second.tag : second.value + second.size]
        content[second.tag : second.value + second.size] = one
        content[first.tag : first.value + first.size] = other


def _falsify_length(content: bytearray, places: list[Element], rng: random.Random) -> None:
    place = rng.choice(places)
    false_length = rng.choice(
        (*BOUNDARY_NUMBERS, place.size + 1, place.size + 2, max(place.size - 2, 0), 2 * place.size, rng.getrandbits(32))
    )
    limit = 1 << (8 * place.length_size)
    content[place.length : place.length + place.length_size] = (false_length % limit).to_bytes(
        place.length_size, "little"
    )


def _falsify_value(content: bytearray, places: list[Element], rng: random.Random) -> None:
    place = rng.choice(places)
    if place.size in {2, 4} and rng.random() < 0.5:  # noqa: PLR2004 - such as US and UL
        value = (rng.choice(BOUNDARY_NUMBERS) % (1 << (8 * place.size))).to_bytes(place.size, "little")
    else:
        value = rng.choice(TEXTS).ljust(place.size)[: place.size]
    content[place.value : place.value + place.size] = value


BLIND: tuple[Damage, ...] = (
    _flip,
    _flip_in_header,
    _overwrite,
    _truncate,
    _cut_out,
    _repeat,
)
"""Damages at random positions, without knowledge of the elements."""

DAMAGES = (*BLIND, _swap_tags, _swap_elements, _falsify_length, _falsify_length, _falsify_value, _falsify_value)
"""All damages; two of them twice, so that they are drawn more often."""
