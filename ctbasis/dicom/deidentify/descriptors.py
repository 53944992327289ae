"""The option Clean Descriptors: of descriptions, only words of a radiological vocabulary are kept.

Words are also names: Sharp, Small and Wall are surnames. The vocabulary leaves out the adjectives that are common as
names. Of the other words, those that occur in a name or an identifier of the same header are removed, and a description
without any word that is hardly a name, such as CT or thorax, is removed as a whole.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

WORDS = frozenset(
    """
    abdomen abdominal acute adrenal angio angiography aorta aortic apex arterial artery axial biopsy brain
    breath bronchus calcium cardiac chest chronic contrast control coronal coronary ct cta diagnostic diaphragm
    dose embolism enhanced exam expiration extended follow followup gated helical hepatic hilar hires hr hrct
    inspiration iv kernel kidney left lesion liver lobe localizer lower lung lungs mediastinal mediastinum
    medium mip monitoring native neck nodule non nonenhanced of oral pelvis phase plain portal pre prone
    protocol pulmonary quality recon reconstruction reduced reformat resolution right routine sagittal scan
    scout screening series single slice smooth soft spine standard study supine thick thin thoracic thorax
    thoracoabdominal tissue topogram trachea ultra unenhanced upper vascular venous vertebra volume whole window
    with without
    """.split()  # noqa: SIM905 - a list literal would take 150 lines
)

ANCHORS = frozenset(
    """
    abdomen abdominal angio angiography aorta aortic bronchus cardiac chest coronary ct cta embolism hepatic hrct
    localizer lungs mediastinal mediastinum pelvic pelvis pulmonary screening thoracic thoracoabdominal thorax topogram
    trachea vertebra
    """.split()  # noqa: SIM905 - a list literal would take 30 lines
)
"""Words that are hardly ever names. A description without any of them is not one of an examination."""

KERNEL = re.compile(r"[bhitu]\d{2}[fsu]|(bf|bl|br|bv|hf|hr|qr|ub|uh|fc|fl)\d{2}[a-z]?", re.IGNORECASE | re.ASCII)
"""Names of reconstruction kernels, such as B30f, Br40 and FC51; B53 alone may be an initial and a year."""

MEASURE = re.compile(r"\d{1,3}(\.\d{1,2})?(mm|cm|kv|kvp|ma|mas|%|hu)|\d\.\d{1,2}", re.IGNORECASE | re.ASCII)
"""A number with a unit, or a slice thickness."""

SEPARATORS = re.compile(r"[\s,;:/()\[\]_+-]+")


NAME_PARTS = re.compile(r"[\W_\d]+")
"""What separates the parts of names and identifiers."""


def parts_of_names(names: Iterable[str]) -> frozenset[str]:
    """Return the words in names and identifiers, in lower case."""
    return frozenset(part.casefold() for name in names for part in NAME_PARTS.split(name) if part)


def clean_description(text: str, names: Container[str] = ()) -> str:
    """Return the words of `text` that may be kept, in their order; nothing if none is an examination's.

    Args:
        text: The description.
        names: Words in lower case that occur in names or identifiers of the same header.
    """
    words = [word for word in SEPARATORS.split(text) if word.casefold() not in names]
    if not any(word.casefold() in ANCHORS for word in words):
        return ""
    kept = [word for word in words if word.casefold() in WORDS or KERNEL.fullmatch(word) or MEASURE.fullmatch(word)]
    return " ".join(kept)
