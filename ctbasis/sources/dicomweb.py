"""The source `dicomweb+https://host/path?StudyInstanceUID=…`: instances of an image archive (PACS) by DICOMweb.

QIDO-RS lists studies, series and instances, and WADO-RS gives the instances as files (DICOM PS3.18, sections 10.6 and
10.4). The bytes are those that the archive sends. dicomweb-client would parse each instance and encode it anew.
"""

from __future__ import annotations

import re
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from ctbasis.errors import CtbasisError, TransientError
from ctbasis.sources.dicomweb_server import DicomwebServer
from ctbasis.sources.google import renewing
from ctbasis.sources.http import raw_content
from ctbasis.sources.listing import pages
from ctbasis.sources.multipart import MultipartError, boundary_of, only_part
from ctbasis.sources.received import READ_BYTES, receive
from ctbasis.sources.source import RemoteObject

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    import requests

UID = re.compile(r"[0-9][0-9.]{0,63}")

LEVELS = {
    "SeriesInstanceUID": "series",
    "Modality": "series",
    "SeriesNumber": "series",
    "SeriesDescription": "series",
    "BodyPartExamined": "series",
    "SOPInstanceUID": "instances",
    "SOPClassUID": "instances",
    "InstanceNumber": "instances",
    "StudyInstanceUID": "studies",
    "PatientID": "studies",
    "PatientName": "studies",
    "StudyDate": "studies",
    "StudyTime": "studies",
    "StudyID": "studies",
    "StudyDescription": "studies",
    "AccessionNumber": "studies",
    "ModalitiesInStudy": "studies",
    "ReferringPhysicianName": "studies",
}
"""Attributes by which a URI may select, each with the level of the search that matches it (PS3.18, table 10.6.1-5)."""

UIDS = {
    "studies": ("StudyInstanceUID", "0020000D"),
    "series": ("SeriesInstanceUID", "0020000E"),
    "instances": ("SOPInstanceUID", "00080018"),
}
"""Keyword and tag of the identifier at each level."""

UID_KEYWORDS = frozenset(keyword for keyword, _ in UIDS.values())

PAGE = 500
"""Results a page. Archives limit a page on their own; 500 is below the limits of Orthanc, dcm4chee and Google."""

ACCEPT_FILE = 'multipart/related; type="application/dicom"; transfer-syntax=*'
"""Each instance in the transfer syntax in which the archive keeps it."""


class DicomwebSource:
    """The instances that match the query of the URI; without a query, those of the whole archive.

    The listing states no sizes. An instance with the same identifiers is taken to be unchanged, as DICOM demands.

    Args:
        uri: `dicomweb+https://host/path?StudyInstanceUID=…`; `dicomweb+http://` for a server without TLS. The query has
            attributes of `LEVELS`.
        connections: Parallel downloads.

    Raises:
        CtbasisError: The URI is not of this form.
    """

    def __init__(self, uri: str, connections: int) -> None:
        place, _, query = uri.partition("?")
        self._query = _parsed(query)
        # One more connection for the search, which continues during downloads.
        self._server = DicomwebServer(
            place, what="the source", needs="to search and to retrieve", connections=connections + 1
        )
        self._base, self._site = self._server.base, self._server.site

    def objects(self) -> Iterator[RemoteObject]:
        """Yield the instances, in the order of their identifiers within each series, study after study.

        Raises:
            CtbasisError: Access is denied, the server does not answer, or its answer is not a result of QIDO-RS.
        """
        for study in self._uids("studies", ""):
            for series in self._uids("series", f"/studies/{study}"):
                for instance in self._uids("instances", f"/studies/{study}/series/{series}"):
                    location = f"studies/{study}/series/{series}/instances/{instance}"
                    yield RemoteObject(f"{study}/{series}/{instance}.dcm", location, None, instance)

    def download(self, entry: RemoteObject, target: Path) -> bool:
        """Stream the instance to `target`; see `Source.download`."""
        with (
            renewing(),
            self._site.content(f"{self._base}/{entry.location}", headers={"Accept": ACCEPT_FILE}) as answer,
        ):
            return receive(self._instance(answer), entry, target)

    def read(self, entry: RemoteObject, start: int, stop: int) -> bytes:
        """Return a range of bytes of the instance; see `Source.read`.

        WADO-RS has no ranges: the instance is read from its start, and the connection is closed at `stop`.
        """
        data = bytearray()
        if start >= stop:
            return b""
        with (
            renewing(),
            self._site.content(f"{self._base}/{entry.location}", headers={"Accept": ACCEPT_FILE}) as answer,
        ):
            for piece in self._instance(answer, 1 << 16):
                data += piece
                if len(data) >= stop:
                    break
        return bytes(data[start:stop])

    def _retrieved(self, entry: RemoteObject) -> AbstractContextManager[requests.Response]:
        return self._site.content(f"{self._base}/{entry.location}", headers={"Accept": ACCEPT_FILE})

    def _instance(self, answer: requests.Response, size: int = READ_BYTES) -> Iterator[bytes]:
        self._server.refuse_unauthorized(answer)
        kind = answer.headers.get("Content-Type", "")
        try:
            if kind.partition(";")[0].strip().lower() == "application/dicom":
                # Some archives send one instance as it is.
                yield from raw_content(answer, size)
            else:
                yield from only_part(raw_content(answer, size), boundary_of(kind))
        except MultipartError as error:
            raise TransientError(f"the answer {error}") from None

    def _uids(self, level: str, parent: str) -> list[str]:
        """Return the identifiers at a level below `parent`, sorted: servers state no order."""
        keyword, _ = UIDS[level]
        given = self._query.get(keyword, "")
        matches = {name: value for name, value in self._query.items() if LEVELS[name] == level}
        if level != "instances" and set(matches) == {keyword}:
            return [given]
        found = pages(
            partial(self._page, f"{self._base}{parent}/{level}", level, matches),
            invalid=self._site.invalid,
            unreachable=self._site.unreachable,
        )
        return sorted(set(found))

    def _page(self, url: str, level: str, matches: dict[str, str], token: str) -> tuple[list[str], str]:
        """Return the identifiers of a page of results, and the token of the next: offset and first identifier."""
        offset, _, before = token.partition(" ")
        parameters = {**matches, "limit": str(PAGE), "offset": offset or "0"}
        with renewing():
            answer = self._site.get(url, params=parameters, headers={"Accept": "application/dicom+json"})
        if answer.status_code == HTTPStatus.NO_CONTENT:
            return [], ""
        self._server.refuse_unauthorized(answer)
        keyword, tag = UIDS[level]
        try:
            uids = [str(result[tag]["Value"][0]) for result in answer.json()]
        except (ValueError, TypeError, KeyError, IndexError, RecursionError):
            raise self._site.invalid(f"it is not a list of data sets in JSON that have {keyword}") from None
        if not all(UID.fullmatch(uid) for uid in uids):
            raise self._site.invalid(f"a {keyword} is not a UID")
        if uids and uids[0] == before:
            raise self._site.invalid("it does not end: the server ignores the offset, and repeats a page")
        # A server that knows no pages sends all results at once.
        return uids, f"{int(offset or 0) + len(uids)} {uids[0]}" if len(uids) == PAGE else ""


def _parsed(query: str) -> dict[str, str]:
    """Return the attributes of a URI's query. No message repeats a value, which may be a patient's name."""
    pairs = dict(parse_qsl(query, keep_blank_values=True))
    unknown = set(pairs) - set(LEVELS)
    bad = [name for name, value in pairs.items() if name in UID_KEYWORDS and not UID.fullmatch(value)]
    if unknown or bad or (query and not pairs):
        raise CtbasisError(
            "the query of the source has an attribute that it may not have"
            if unknown or not bad
            else f"the query of the source has no valid {bad[0]}",
            expected=f"some of {', '.join(LEVELS)}",
            remedy="correct the source; tokens and passwords have variables of their own",
        )
    if "SeriesInstanceUID" in pairs and "StudyInstanceUID" not in pairs:
        raise CtbasisError(
            "the query of the source has SeriesInstanceUID without StudyInstanceUID",
            expected="both, because DICOMweb addresses a series within its study",
            remedy="add StudyInstanceUID",
        )
    return pairs
