"""What a de-identified header may hold: an attribute, a code or a UID that is not listed here is removed.

The lists name what a derived CT image, its geometry, its pixels and viewers need. Text is kept only if a list has the
whole text; the lists hold defined terms of PS3.3 and the terms of the common vendors. Attributes that table E.1-1 names
are treated as the table says; `profile.py` holds it.
"""

from __future__ import annotations

import re
from functools import cache
from typing import cast

from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.sr._concepts_dict import concepts
from pydicom.sr._snomed_dict import mapping

STANDARD_UIDS = frozenset(UID_dictionary)
"""UIDs that PS3.6 registers: SOP classes, transfer syntaxes, well-known frames of reference. They identify nobody."""

CLASS_UIDS = frozenset({"SOPClassUID", "RelatedGeneralSOPClassUID", "OriginalSpecializedSOPClassUID"})
"""Attributes whose UIDs are kept if PS3.6 registers them, and removed otherwise."""

INSTANCE_UIDS = frozenset({"EquipmentFrameOfReferenceUID"})
"""Attributes outside of table E.1-1 whose UIDs are replaced by pseudonyms."""

NUMBERS = frozenset(
    """
    AcquisitionDuration AcquisitionNumber BitsAllocated BitsStored CTDIvol CalciumScoringMassFactorDevice
    CalciumScoringMassFactorPatient Columns ContrastBolusIngredientConcentration ContrastBolusTotalDose
    ContrastBolusVolume ContrastFlowDuration ContrastFlowRate DataCollectionCenterPatient DataCollectionDiameter
    DistanceSourceToDetector DistanceSourceToPatient EnergyWeightingFactor Exposure ExposureInuAs ExposureTime
    FocalSpots GantryDetectorTilt GeneratorPower HighBit ImageOrientationPatient ImagePositionPatient
    ImagesInAcquisition InstanceNumber IsocenterPosition KVP LossyImageCompressionRatio PixelAspectRatio
    PixelPaddingRangeLimit PixelPaddingValue PixelRepresentation PixelSpacing PlanarConfiguration
    ReconstructionDiameter ReconstructionTargetCenterPatient RescaleIntercept RescaleSlope RevolutionTime Rows
    SamplesPerPixel SeriesNumber SingleCollimationWidth SliceLocation SliceThickness SpacingBetweenSlices
    SpatialResolution SpiralPitchFactor SynchronizationChannel TableFeedPerRotation TableHeight TableSpeed
    TotalCollimationWidth WaterEquivalentDiameter WindowCenter WindowWidth XRayTubeCurrent
    """.split()  # noqa: SIM905 - a list literal would take 60 lines
)
"""Numbers that describe the acquisition, the geometry and the pixels."""

YES_NO = frozenset({"YES", "NO"})

BODY_PARTS = frozenset(
    """
    ABDOMEN ABDOMENPELVIS ADRENAL ANKLE AORTA ARM AXILLA BACK BLADDER BRAIN BREAST BRONCHUS CALF CAROTID CERVIX CHEST
    CHESTABDOMEN CHESTABDPELVIS CHESTABDOMENPELVIS CLAVICLE COCCYX COLON CSPINE CTSPINE ELBOW ESOPHAGUS EXTREMITY EYE
    FEMUR FOOT GALLBLADDER HAND HEAD HEADNECK HEART HIP HUMERUS ILEUM ILIUM JAW KIDNEY KNEE LARYNX LEG LIVER LSPINE
    LSSPINE LUNG MAXILLA MEDIASTINUM MOUTH NECK NECKCHEST NECKCHESTABDOMEN NECKCHESTABDPELV NOSE ORBIT PANCREAS
    PAROTID PATELLA PELVIS PHANTOM PHARYNX PROSTATE RIB SACRUM SCALP SCAPULA SELLA SHOULDER SINUS SKULL SPINE SPLEEN
    SSPINE STERNUM STOMACH TESTIS THIGH THORAX THYMUS THYROID TLSPINE TMJ TOE TONGUE TRACHEA TSPINE UTERUS VAGINA
    WHOLEBODY WRIST
    """.split()  # noqa: SIM905 - a list literal would take 100 lines
)

TERMS: dict[str, frozenset[str]] = {
    "AcquisitionTimeSynchronized": frozenset({"Y", "N"}),
    "AnatomicalOrientationType": frozenset({"BIPED", "QUADRUPED"}),
    "BodyPartExamined": BODY_PARTS,
    "BurnedInAnnotation": frozenset({"NO"}),
    "ContentQualification": frozenset({"PRODUCT", "RESEARCH", "SERVICE"}),
    "ContrastBolusIngredient": frozenset({"IODINE", "GADOLINIUM", "CARBON DIOXIDE", "BARIUM", "XENON"}),
    "ExposureModulationType": frozenset(
        {"NONE", "CONSTANT", "ANGULAR", "LONGITUDINAL", "XY_EC", "Z_EC", "XYZ_EC", "ECG", "ORGAN"}
    ),
    "FilterMaterial": frozenset({"ALUMINUM", "COPPER", "TIN", "TITANIUM", "MOLYBDENUM", "SILVER", "LEAD", "MIXED"}),
    "ImageLaterality": frozenset({"R", "L", "U", "B"}),
    "ImageType": frozenset(
        """
        ORIGINAL DERIVED PRIMARY SECONDARY AXIAL LOCALIZER OTHER REFORMATTED MPR MIP AVERAGE HELICAL SPIRAL VOLUME
        SPI OSEM CSA CSAPARALLEL CT_SOM5 CT_SOM7 SEQ CT_SOM5~SPI RECON SUBTRACTION RESAMPLED MIXED CARDIAC ADD NORM
        PARALLEL VMI MONOENERGETIC ST SCOUT MINIP MULTI_SERIES VIRTUAL_MONOENERGETIC MATERIAL_SPECIFIC QUANTITY
        MOTION BEST SINOGRAM
        """.split()  # noqa: SIM905 - a list literal would take 40 lines
    )
    | {"CT_SOM5 SPI", "CT_SOM5 SEQ", "CT_SOM7 SPI", "CT_SOM7 SEQ", "CT_SOM8 SPI", "CT_SOM8 SEQ", "CT_SOM5 TOP"},
    "Laterality": frozenset({"R", "L"}),
    "LossyImageCompression": frozenset({"00", "01"}),
    "LossyImageCompressionMethod": frozenset(
        {"ISO_10918_1", "ISO_14495_1", "ISO_15444_1", "ISO_15444_2", "ISO_15444_15", "ISO_18181_1"}
    ),
    "Modality": frozenset({"CT"}),
    "PatientOrientation": frozenset({"A", "P", "R", "L", "H", "F"}),
    "PatientPosition": frozenset({"HFS", "HFP", "HFDR", "HFDL", "FFS", "FFP", "FFDR", "FFDL", "LFS", "LFP"}),
    "PhotometricInterpretation": frozenset({"MONOCHROME1", "MONOCHROME2"}),
    "PresentationLUTShape": frozenset({"IDENTITY", "INVERSE"}),
    "QualityControlImage": YES_NO | {"BOTH"},
    "RecognizableVisualFeatures": YES_NO,
    "RescaleType": frozenset({"HU", "HU_MOD", "US", "MGML", "PCT", "ED", "EDW", "Z_EFF", "OD"}),
    "RotationDirection": frozenset({"CW", "CC"}),
    "ScanOptions": frozenset(
        {"HELICAL MODE", "AXIAL MODE", "CINE MODE", "HELICAL_CT", "NORMAL_CT", "VOLUME_CT", "DYNAMIC_CT", "SPIRAL"}
        | {"HELIX", "AXIAL", "HELICAL", "NONE", "EKG", "ECG", "TP", "SEQUENTIAL", "VOLUME SCAN", "CARDIAC"}
    ),
    "SliceProgressionDirection": frozenset({"APEX_TO_BASE", "BASE_TO_APEX", "ANT_TO_INF", "INF_TO_ANT"}),
    "SynchronizationTrigger": frozenset({"SOURCE", "EXTERNAL", "PASSTHRU", "NO TRIGGER"}),
    "SyntheticData": YES_NO,
    "VOILUTFunction": frozenset({"LINEAR", "LINEAR_EXACT", "SIGMOID"}),
}
"""Terms that each attribute may have."""

MANUFACTURERS = (
    "Agfa",
    "Canon Medical Systems",
    "CANON_MEC",
    "ctbasis",
    "Elekta",
    "FUJIFILM Corporation",
    "GE Healthcare",
    "GE MEDICAL SYSTEMS",
    "Hitachi Medical Corporation",
    "Hitachi, Ltd.",
    "Imatron",
    "Marconi Medical Systems",
    "MinFound",
    "Neusoft Medical Systems",
    "Neusoft",
    "NeuroLogica",
    "Philips Healthcare",
    "Philips Medical Systems",
    "Philips",
    "Picker International, Inc.",
    "SHIMADZU",
    "Siemens Healthcare",
    "Siemens Healthineers",
    "SIEMENS",
    "TOSHIBA",
    "TOSHIBA_MEC",
    "UIH",
    "United Imaging Healthcare",
    "Varian Medical Systems",
)
"""Values of Manufacturer, compared without regard to case; other values are left empty."""

KERNEL = re.compile(
    r"[BHITU]\d{2}[fshmu](\s*[1-5])?|(Bf|Bl|Br|Bv|Hc|Hf|Hp|Hr|Hv|Qr|Sa|Tr|Ub|Uh)\d{2}[a-z]?(\s*[1-5])?|FC\d{2}|[1-5]|"
    r"[A-EL]|Y[A-D]|UB|UC|EB|EC|HRC|SA|IQ|"
    r"STANDARD|STND|BONE|BONEPLUS|LUNG|CHEST|DETAIL|EDGE|SOFT|ULTRA|SMOOTH|SHARP|SHARPER|"
    r"B_SHARP_[A-E]|B_SOFT_[A-E]|B_VSOFT_[A-E]|F_SOFT|LUNG_SOFT|BODY_SHARP",
    re.IGNORECASE | re.ASCII,
)
"""Names of the reconstruction kernels of the common vendors, such as B30f, Br40d, FC51 and BONEPLUS."""

DEVICE_NAMES = frozenset({"Manufacturer", "ManufacturerModelName", "SoftwareVersions"})
"""Attributes outside of table E.1-1 that the option `device-identity` retains: they name the scanner."""

CODE_SEQUENCES = frozenset(
    {
        "AnatomicRegionModifierSequence",
        "AnatomicRegionSequence",
        "CTDIPhantomTypeCodeSequence",
        "ContrastBolusAdministrationRouteSequence",
        "ContrastBolusAgentSequence",
        "DeidentificationMethodCodeSequence",
        "DerivationCodeSequence",
        "PatientEquipmentRelationshipCodeSequence",
        "PatientOrientationCodeSequence",
        "PatientOrientationModifierCodeSequence",
        "PrimaryAnatomicStructureModifierSequence",
        "PrimaryAnatomicStructureSequence",
        "PurposeOfReferenceCodeSequence",
        "ViewCodeSequence",
        "ViewModifierCodeSequence",
        "WaterEquivalentDiameterCalculationMethodCodeSequence",
    }
)
"""Sequences of codes that are kept, as far as the dictionary of PS3.16 has the codes."""

RETAINED_CODE_SEQUENCES = frozenset({"InstitutionalDepartmentTypeCodeSequence"})
"""Sequences of codes that are kept if an option retains them."""

REFERENCE_SEQUENCES = frozenset(
    {
        "ReferencedImageSequence",
        "ReferencedInstanceSequence",
        "ReferencedPatientSequence",
        "ReferencedPerformedProcedureStepSequence",
        "ReferencedStudySequence",
        "SourceImageSequence",
    }
)
"""Sequences of references to SOP instances that are kept: the SOP class, the pseudonym of the UID, and the frame."""


@cache
def _meanings() -> dict[tuple[str, str], str]:
    """Return the meanings of the codes of PS3.16 by designator of the coding scheme and value."""
    dictionary = cast("dict[str, dict[str, dict[str, tuple[str, list[int]]]]]", concepts)
    return {
        (designator, value): meaning
        for designator, concept_of_name in dictionary.items()
        for values in concept_of_name.values()
        for value, (meaning, _) in values.items()
    }


def known_code(value: str, designator: str) -> tuple[str, str, str] | None:
    """Return value, designator and meaning of a code as the dictionary of PS3.16 has them, or None if it has none.

    A code of SNOMED RT is returned as its code of SNOMED CT, which the dictionary has.

    Args:
        value: CodeValue.
        designator: CodingSchemeDesignator.
    """
    if designator in {"SRT", "SNM3"}:
        value, designator = mapping["SRT"].get(value, ""), "SCT"
    meaning = _meanings().get((designator, value))
    return None if meaning is None else (value, designator, meaning)


def code_item(code: tuple[str, str, str]) -> Dataset:
    """Return value, designator and meaning of a code as an item of a code sequence."""
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code
    return item


def known_codes(items: Sequence) -> Sequence:
    """Return the items whose codes the dictionary has, with nothing but the code and the codes that modify it."""
    kept = []
    for item in items:
        code = known_code(str(item.get("CodeValue", "")).strip(), str(item.get("CodingSchemeDesignator", "")).strip())
        if code is None:
            continue
        clean = code_item(code)
        for keyword in CODE_SEQUENCES & set(item.dir("Modifier")):
            if modifiers := known_codes(item[keyword].value or Sequence()):
                setattr(clean, keyword, modifiers)
        kept.append(clean)
    return Sequence(kept)


def known_terms(keyword: str, values: list[str]) -> list[str] | None:
    """Return those of `values` that are terms of the attribute; None if no value is, or the attribute has no terms.

    The first two values of ImageType have a meaning by their position: an unknown one becomes DERIVED or SECONDARY.

    Args:
        keyword: Keyword of the attribute.
        values: Its values.
    """
    plain = [value.strip() for value in values]
    if keyword == "Manufacturer":
        names = {name.casefold(): name for name in MANUFACTURERS}
        return [names[plain[0].casefold()]] if len(plain) == 1 and plain[0].casefold() in names else None
    if keyword == "ConvolutionKernel":
        return plain if plain and all(map(KERNEL.fullmatch, plain)) else None
    terms = TERMS.get(keyword)
    if terms is None:
        return None
    if keyword == "PatientOrientation":
        return plain if len(plain) == 2 and all(set(value) <= terms and len(value) <= 3 for value in plain) else None  # noqa: PLR2004 - row and column; three axes
    if keyword == "ImageType":
        main = [
            value if value in terms else other for value, other in zip(plain, ("DERIVED", "SECONDARY"), strict=False)
        ]
        plain = [*main, *plain[2:]]
    return [value for value in plain if value in terms] or None
