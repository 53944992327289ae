"""The objects of one series are fetched, and known by their content whatever their names and dates."""

from __future__ import annotations

import shutil
import zipfile
from typing import TYPE_CHECKING

import pydicom
import pytest

from ctbasis.cohort.series_fetch import SeriesName, fetch_series
from ctbasis.dicom.deidentify.deidentification import Deidentification
from ctbasis.dicom.deidentify.pseudonyms import SALT
from ctbasis.parameters import DeidentificationPlan
from tests.cohort.sources import ROOT_UID, write_small

if TYPE_CHECKING:
    from pathlib import Path

AS_IT_IS = DeidentificationPlan()


def test_the_digest_is_that_of_the_content_and_not_of_names(tmp_path: Path) -> None:
    write_small(tmp_path / "ct", 0)
    digest, _ = fetch_series(str(tmp_path / "ct"), tmp_path / "one", AS_IT_IS)
    (tmp_path / "renamed").mkdir()
    for number, path in enumerate(sorted((tmp_path / "ct").iterdir(), reverse=True)):
        shutil.copyfile(path, tmp_path / "renamed" / f"{number}")
    assert fetch_series(str(tmp_path / "renamed"), tmp_path / "two", AS_IT_IS)[0] == digest
    (tmp_path / "renamed" / "0").write_bytes(b"other")
    assert fetch_series(str(tmp_path / "renamed"), tmp_path / "three", AS_IT_IS)[0] != digest


@pytest.mark.parametrize("deidentify", [False, True])
def test_of_an_archive_with_two_series_the_files_of_one_are_kept(
    deidentify: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SALT, "a salt for this test alone")
    uids = [write_small(tmp_path / "ct" / str(number), number) for number in range(2)]
    (tmp_path / "source").mkdir()
    with zipfile.ZipFile(tmp_path / "source" / "both.zip", "w") as archive:
        for path in sorted((tmp_path / "ct").rglob("*.dcm")):
            archive.write(path, path.relative_to(tmp_path / "ct"))
    plan = DeidentificationPlan(deidentify=deidentify)
    name = SeriesName(f"{ROOT_UID}.0", uids[1])
    if deidentify:
        identity = Deidentification.of()
        name = SeriesName(identity.uid(name.study), identity.uid(name.series))
    fetch_series(str(tmp_path / "source"), tmp_path / "one", plan, only=name)
    found = {str(pydicom.dcmread(path).SeriesInstanceUID) for path in dicom_files(tmp_path / "one")}
    assert found == {uids[1]}
    assert len(dicom_files(tmp_path / "one")) == len(list((tmp_path / "ct" / "1").iterdir()))


def dicom_files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".ctbasis")]
