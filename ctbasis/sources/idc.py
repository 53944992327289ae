"""The source `idc://collection/ID`: CT of the NCI Imaging Data Commons, by its catalogue in the package idc-index-data.

The catalogue names for each series of a release the prefix of its files in a public bucket on S3.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from ctbasis.errors import CtbasisError
from ctbasis.sources.buckets import Buckets

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ctbasis.sources.source import RemoteObject

COLUMNS = {
    "collection": "collection_id",
    "patient": "PatientID",
    "study": "StudyInstanceUID",
    "series": "SeriesInstanceUID",
}
"""Column of the catalogue for each kind of URI."""

ADDRESS = "series_aws_url"
"""Column with the prefix of the files of a series: `s3://idc-open-data/SERIES/*`."""

VALUE = re.compile(r"[\w.\- ]{1,200}")


class IdcSource:
    """The CT series of a collection, a patient or a study, or one series, of the release that the catalogue describes.

    Args:
        uri: `idc://collection/ID`, `idc://patient/ID`, `idc://study/UID` or `idc://series/UID`.
        connections: Parallel downloads.

    Raises:
        CtbasisError: The URI is not of this form, the catalogue is not installed, or it has no such CT.
    """

    def __init__(self, uri: str, connections: int) -> None:
        kind, _, value = uri.partition("://")[2].strip("/").partition("/")
        if kind not in COLUMNS or not VALUE.fullmatch(value):
            raise CtbasisError(
                "the URI of the source names nothing in the Imaging Data Commons",
                expected=" or ".join(f"idc://{name}/ID" for name in COLUMNS),
                remedy="correct the source",
            )
        self._kind, self._value = kind, value
        self._buckets = Buckets(connections)
        self._series: list[tuple[str, str]] | None = None

    def objects(self) -> Iterator[RemoteObject]:
        """Yield the files of each series, in folders `patient/study/series`, as the listings of its bucket arrive.

        Raises:
            CtbasisError: The catalogue has no such CT, or the bucket cannot be listed.
        """
        if self._series is None:
            self._series = ct_series(self._kind, self._value)
        for folder, address in self._series:
            yield from self._buckets.objects(address, folder)

    def download(self, entry: RemoteObject, target: Path) -> bool:
        """Download a file from its bucket; see `Source.download`."""
        return self._buckets.download(entry, target)

    def read(self, entry: RemoteObject, start: int, stop: int) -> bytes:
        """Read a range of bytes of a file from its bucket; see `Source.read`."""
        return self._buckets.read(entry, start, stop)


def ct_series(kind: str, value: str) -> list[tuple[str, str]]:
    """Return folder and address of each CT series that the catalogue has for a collection, patient, study or series.

    Args:
        kind: One of `COLUMNS`.
        value: Identifier of the collection, patient, study or series.

    Returns:
        Pairs of `patient/study/series` and `s3://bucket/prefix/*`, sorted.

    Raises:
        CtbasisError: The catalogue is not installed, or has no CT of this identifier.
    """
    catalogue = _catalogue()
    import pyarrow.parquet

    column = COLUMNS[kind]
    folders = ["PatientID", "StudyInstanceUID", "SeriesInstanceUID"]
    table = pyarrow.parquet.read_table(
        catalogue.IDC_INDEX_PARQUET_FILEPATH,
        columns=[*folders, ADDRESS],
        filters=[(column, "==", value), ("Modality", "==", "CT")],
    )
    rows = table.to_pylist()
    if not rows:
        raise CtbasisError(
            f"the catalogue of the Imaging Data Commons (release {_release(catalogue)}) has no CT with this {column}",
            expected=f"a {column} of its catalogue with CT series",
            cause="the identifier is misspelt, is of another release, or has images of other modalities only",
            remedy="look the identifier up in the portal of the Imaging Data Commons",
        )
    return sorted(("/".join(str(row[name]) for name in folders), str(row[ADDRESS])) for row in rows)


def _catalogue() -> Any:
    try:
        import idc_index_data
    except ImportError:
        raise CtbasisError(
            "the catalogue of the Imaging Data Commons is not installed",
            expected="the package idc-index-data",
            remedy="pip install 'ctbasis[idc]'",
        ) from None
    return idc_index_data


def _release(catalogue: Any) -> str:
    return str(catalogue.__version__).partition(".")[0]
