"""The closed lists of values that a parameter chooses from: modes, methods, engines, compressions, options.

They stand here as data, below the rooms that implement them, so that the command line, the pipeline and `--help` name
them without importing an engine or an encoder. The room of each list adds the code:

| list | code |
| --- | --- |
| `ENGINES` | `ctbasis/svd/engines/`, one module an engine |
| `METHODS` | `ctbasis/svd/method.py` |
| `COMPRESSIONS` | `ctbasis/dicom/compression.py` |
| `RETAIN_OPTIONS` | `ctbasis/dicom/deidentify/profile.py` |
"""

from __future__ import annotations

from dataclasses import dataclass

AUTO = "auto"
"""The choice that leaves the decision to ctbasis."""

MODES = ("global", "patch")

SERVED_KINDS = ("inferenceservice", "deployment")
"""Kinds of objects that serve a basis: of KServe, and of manifests/serving/model."""
"""What is factored. global: the matrix with one column a slice, the published method; patch: the matrix of patches."""

METHODS = (AUTO, "exact", "randomized", "single-pass")
"""Algorithms of the block engines (spark, dask, ray, numpy). Mahout has its own. auto: exact up to 4096 slices."""


@dataclass(frozen=True)
class EngineEntry:
    """One engine: the module that implements it and how it is described to the user.

    Attributes:
        module: Module with the engine's `factorize` and `open_workers`; imported when the engine runs.
        on_spark: Whether the engine runs inside a Spark application.
        summary: Description in a few words, for `--help`.
    """

    module: str
    on_spark: bool
    summary: str


ENGINES = {
    "mahout": EngineEntry("ctbasis.svd.engines.mahout", on_spark=True, summary="Apache Mahout's DS-SVD on Spark"),
    "spark": EngineEntry("ctbasis.svd.engines.spark", on_spark=True, summary="NumPy blocks on plain Spark"),
    "dask": EngineEntry("ctbasis.svd.engines.dask", on_spark=False, summary="NumPy blocks on a Dask cluster"),
    "ray": EngineEntry("ctbasis.svd.engines.ray", on_spark=False, summary="NumPy blocks on a Ray cluster"),
    "numpy": EngineEntry("ctbasis.svd.engines.numpy", on_spark=False, summary="NumPy on one machine, within --memory"),
}
"""The engines by name. A new engine is one module and one line here."""

UNCOMPRESSED = "none"

COMPRESSIONS = (UNCOMPRESSED, "rle", "jpeg-ls", "jpeg2000")
"""Lossless compressions of the DICOM series that are written."""

RETAIN_OPTIONS = {
    "uids": "UIDs unchanged",
    "device-identity": "serial numbers and names of the scanner",
    "institution-identity": "name and address of the hospital",
    "patient-characteristics": "sex, age, size, weight",
    "full-dates": "dates and times unchanged",
    "modified-dates": "dates, all of one patient shifted by the same secret number of days",
    "clean-descriptors": "words of a radiological vocabulary in descriptions",
}
"""Options of PS3.15 Annex E that keep an attribute which the Basic Profile removes: name and what stays."""
