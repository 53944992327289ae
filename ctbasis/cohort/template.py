"""The folder of each series in a cohort's output: a template over its identifiers, and never one folder for two series.

A value from a header or a key becomes parts of a path without any character that a file system or a shell gives a
meaning to; such characters are percent-encoded, as in a URL.
"""

from __future__ import annotations

import hashlib
import re
import string
from typing import TYPE_CHECKING

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SOURCE_FOLDER = "SourceFolder"
"""Field of the template: the folder or prefix, relative to the source, that contains all objects of the series."""

FIELDS = (
    SOURCE_FOLDER,
    "PatientID",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "Modality",
    "Manufacturer",
    "ManufacturerModelName",
    "ConvolutionKernel",
)
"""Fields of a template, keywords of DICOM but the first."""

KEEP_TREE = "{SourceFolder}/{SeriesInstanceUID}"
"""The tree of the source, with a folder for each series in it."""

BY_PATIENT = "{PatientID}/{StudyInstanceUID}/{SeriesInstanceUID}"
"""Patient, study, series."""

ABSENT = "none"
"""What stands for a value that a series does not have."""

LONGEST_PART = 200
"""Bytes of a folder's name at most; file systems allow 255, and working folders append to it."""

FORBIDDEN = re.compile(r"[^A-Za-z0-9._=@,+ -]")
"""Characters that are percent-encoded. A leading dot or underscore is too: ctbasis itself uses such names."""


def default_template(*, deidentified: bool) -> str:
    """Return the template of an output for which none is given."""
    return BY_PATIENT if deidentified else KEEP_TREE


def check_template(template: str, *, deidentified: bool) -> None:
    """Check a template before anything is listed.

    Args:
        template: Text with fields in braces, such as `{PatientID}/{SeriesInstanceUID}`.
        deidentified: Whether headers are de-identified. Keys of the source may contain a patient's name.

    Raises:
        CtbasisError: A field is unknown, there is none, or the path is not relative.
    """
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise CtbasisError(f"the template {template!r}: {error}", expected=f"a path such as {BY_PATIENT}") from None
    fields = [name for _, name, _, _ in parts if name is not None]
    unknown = [name for name in fields if name not in FIELDS]
    if unknown or not fields or any(form or conversion for _, _, form, conversion in parts):
        raise CtbasisError(
            f"the template {template!r} has {f'the unknown field {unknown[0]!r}' if unknown else 'no plain field'}",
            expected=f"fields of {', '.join(f'{{{name}}}' for name in FIELDS)}",
            remedy=f"correct --template, as in {BY_PATIENT}",
        )
    written = template.split("/")
    if {"", ".", ".."} & set(written) or any(text[:1] in {"_", "."} for text in written):
        raise CtbasisError(
            f"the template {template!r} is no relative path, or a part of it begins with a dot or an underscore",
            expected="folder names that are separated by single slashes",
            remedy=f"correct --template, as in {BY_PATIENT}",
        )
    if deidentified and SOURCE_FOLDER in fields:
        raise CtbasisError(
            f"the template {template!r} repeats keys of the source, and headers are de-identified",
            expected="fields of headers, which are replaced by pseudonyms",
            cause="names of folders may contain a patient's name",
            remedy=f"use --template '{BY_PATIENT}'",
        )


def folder_of(template: str, values: Mapping[str, str]) -> str:
    """Return the folder of a series, relative to the output.

    Args:
        template: A template that `check_template` accepts.
        values: The value of each field.

    Examples:
        >>> folder_of("{PatientID}/{Modality}", {"PatientID": "../A^B", "Modality": ""})
        '%2E.%2FA%5EB/none'
        >>> folder_of("{SourceFolder}/{Modality}", {"SourceFolder": "a/b c", "Modality": "CT"})
        'a/b c/CT'
    """
    encoded = {
        name: _encoded_path(value) if name == SOURCE_FOLDER else _encoded(value) for name, value in values.items()
    }
    return "/".join(_shortened(part) for part in template.format(**encoded).split("/") if part) or ABSENT


def refuse_shared_folders(folders: Iterable[tuple[str, str]]) -> None:
    """Refuse two series in one folder, and a series whose folder lies in that of another.

    Args:
        folders: The folder of each series, and the series in words for the message.

    Raises:
        CtbasisError: Two series share a folder, with both of them by name.
    """
    taken: dict[str, str] = {}
    above: dict[str, str] = {}
    for folder, series in folders:
        # Some file systems do not distinguish cases.
        key = folder.casefold()
        parents = [key[:end] for end, letter in enumerate(key) if letter == "/"]
        other = taken.get(key) or above.get(key) or next((taken[one] for one in parents if one in taken), "")
        if other:
            raise CtbasisError(
                f"the template maps two series to the folder {folder}, or one below that of the other",
                expected="one folder for each series, none within another",
                details=[other, series],
                cause="the template has no field in which these series differ",
                remedy="add {SeriesInstanceUID}, or {PatientID} and {StudyInstanceUID} where two patients share "
                "a SeriesInstanceUID",
            )
        taken[key] = series
        above |= dict.fromkeys(parents, series)


def _encoded_path(value: str) -> str:
    return "/".join(_encoded(part) for part in value.split("/") if part)


def _encoded(value: str) -> str:
    value = value.strip()
    if not value:
        return ABSENT
    text = FORBIDDEN.sub(
        lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode(errors="surrogateescape")), value
    )
    return f"%{ord(text[0]):02X}{text[1:]}" if text[0] in {".", "_"} else text


def _shortened(part: str) -> str:
    if len(part) <= LONGEST_PART:
        return part
    return f"{part[: LONGEST_PART - 17]}-{hashlib.sha256(part.encode()).hexdigest()[:16]}"
