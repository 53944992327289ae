"""The option Clean Descriptors: of descriptions, only words of a radiological vocabulary are kept."""

from __future__ import annotations

import re

WORDS = frozenset(
    """
    abdomen abdominal acute adrenal angio angiography aorta aortic apex arterial artery axial base biopsy body bone
    brain breath bronchus calcium cardiac chest chronic contrast control coronal coronary ct cta diagnostic
    diaphragm dose early embolism enhanced exam expiration extended fat fine follow followup full gated head heart
    helical hepatic high hilar hires hr hrct inspiration iv kernel kidney large late left lesion liver lobe
    localizer low lower lung lungs mediastinal mediastinum medium mip monitoring native neck nodule non nonenhanced
    of oral pelvis phase plain portal post pre prone protocol pulmonary quality recon reconstruction reduced
    reformat resolution rib right routine sagittal scan scout screening series sharp single slice small smooth soft
    spine standard study supine thick thin thoracic thorax thoracoabdominal tissue topogram trachea ultra unenhanced
    up upper vascular venous vertebra volume wall whole window with without
    """.split()  # noqa: SIM905 - a list literal would take 150 lines
)

KERNEL = re.compile(r"(b|bf|bl|br|bv|h|hf|hr|i|qr|t|u|ub|uh|fc|fl)\d{2}[a-z]?", re.IGNORECASE)
"""Names of reconstruction kernels, such as B30f, Br40 and FC51."""

MEASURE = re.compile(r"\d{1,3}(\.\d{1,2})?(mm|cm|kv|kvp|ma|mas|%|hu)|\d\.\d{1,2}", re.IGNORECASE)
"""A number with a unit, or a slice thickness."""

SEPARATORS = re.compile(r"[\s,;:/()\[\]_+-]+")


def clean_description(text: str) -> str:
    """Return the words of `text` that may be kept, in their order."""
    kept = [
        word
        for word in SEPARATORS.split(text)
        if word.casefold() in WORDS or KERNEL.fullmatch(word) or MEASURE.fullmatch(word)
    ]
    return " ".join(kept)
