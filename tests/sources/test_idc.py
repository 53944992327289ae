"""The Imaging Data Commons: its catalogue is the real one; its bucket is one of the same name on a real S3 server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.sources.fetch import fetch
from ctbasis.sources.idc import IdcSource, ct_series

if TYPE_CHECKING:
    from pathlib import Path

    from ctbasis.demo.s3server import S3Server

COLLECTION = "rider_lung_ct"
"""A public collection of CT, two scans of each of 32 patients; it is on the talk's subject, and small."""

pytest.importorskip("idc_index_data", reason="the catalogue is an extra: pip install 'ctbasis[idc]'")


@pytest.fixture(scope="module")
def collection() -> list[tuple[str, str]]:
    return ct_series("collection", COLLECTION)


def test_the_catalogue_gives_the_ct_series_of_a_collection(collection: list[tuple[str, str]]) -> None:
    assert len(collection) >= 32
    assert collection == sorted(collection)
    assert all(len(folder.split("/")) == 3 for folder, _ in collection)
    address = re.compile(r"s3://idc-open-data[\w-]*/[0-9a-f-]{36}/\*")
    assert all(address.fullmatch(place) for _, place in collection)


def test_patient_study_and_series_select_parts_of_the_collection(collection: list[tuple[str, str]]) -> None:
    patient, study, series = collection[0][0].split("/")
    assert ct_series("series", series) == collection[:1]
    for kind, value in (("study", study), ("patient", patient)):
        found = ct_series(kind, value)
        assert collection[0] in found
        assert set(found) <= set(collection)


def test_the_files_of_a_series_come_from_its_bucket(
    collection: list[tuple[str, str]], aws: S3Server, tmp_path: Path
) -> None:
    folder, address = collection[0]
    series = folder.rpartition("/")[2]
    (tmp_path / "made").mkdir()
    for number in range(3):
        (tmp_path / "made" / f"{number}.dcm").write_bytes(bytes([number]) * 100)
    aws.put_folder(tmp_path / "made", address.removesuffix("/*"))
    fetch(f"idc://series/{series}", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out" / folder).iterdir())
    assert names == ["0.dcm", "1.dcm", "2.dcm"]
    assert fetch(f"idc://series/{series}", tmp_path / "out").skipped == 3
    source = IdcSource(f"idc://series/{series}", 1)
    entries = list(source.objects())
    # Another process downloads by the location alone.
    assert IdcSource(f"idc://series/{series}", 1).read(entries[1], 0, 4) == b"\1" * 4


def test_an_identifier_that_the_catalogue_lacks_is_told_with_its_release() -> None:
    with pytest.raises(CtbasisError, match=r"release [0-9]+\) has no CT with this SeriesInstanceUID"):
        list(IdcSource("idc://series/1.2.3", 1).objects())


@pytest.mark.parametrize(
    "uri", ["idc://", "idc://collection/", "idc://nlst", "idc://query/x' or 1=1", "idc://study/a/b"]
)
def test_a_uri_of_another_form_is_refused(uri: str) -> None:
    with pytest.raises(CtbasisError, match="names nothing"):
        IdcSource(uri, 1)
