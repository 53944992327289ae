"""The inventory of a source: it agrees with what a run reads, reads no pixels, resumes, and stays small."""

from __future__ import annotations

import csv
import json
import sqlite3
import stat
import subprocess
import sys
import zipfile
from collections import Counter
from typing import TYPE_CHECKING

import numpy as np
import pytest
from click.testing import CliRunner

from ctbasis.cli import main
from ctbasis.cohort import inventory as inventory_module
from ctbasis.cohort.inventory import open_inventory
from ctbasis.cohort.selected_source import selected_source
from ctbasis.cohort.series_row import COLUMNS, SeriesRow
from ctbasis.dicom.deidentify.deidentification import Deidentification
from ctbasis.dicom.series import arrange, set_copies_aside
from ctbasis.dicom.set_aside import SetAside
from ctbasis.errors import CtbasisError
from ctbasis.matrix.ingest import read_file
from ctbasis.sources.fetch import fetch
from ctbasis.sources.folder import FolderSource
from ctbasis.sources.schemes import open_source
from tests.cohort.instruments import Recorded, cache, copies
from tests.conftest import smooth_volume

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from pydicom.dataset import FileDataset

    from ctbasis.demo.s3server import S3Server
    from ctbasis.dicom.instance import Slice
    from ctbasis.dicom.series import CTSeries
    from ctbasis.sources.source import RemoteObject
    from tests.conftest import WriteSeries

__all__ = ["cache"]

SALT = "a-salt-of-the-tests-of-inventories"


def inventoried(source: Path | str, where: str = "") -> list[SeriesRow]:
    with open_inventory(str(source)) as opened:
        opened.update()
        return list(opened.rows(where))


@pytest.fixture
def recorded(monkeypatch: pytest.MonkeyPatch) -> list[Recorded]:
    """Return the sources that inventories open from now on, each recorded."""
    opened: list[Recorded] = []

    def open_recorded(uri: str, connections: int) -> Recorded:
        opened.append(Recorded(open_source(uri, connections)))
        return opened[-1]

    monkeypatch.setattr(inventory_module, "open_source", open_recorded)
    return opened


@pytest.fixture
def mixed(tmp_path: Path, write_series: WriteSeries) -> Path:
    """Return a source of three series of two patients, a localizer, a broken file and a text."""
    folder = tmp_path / "mixed"
    write_series(folder / "a", smooth_volume(), ConvolutionKernel="B30f", CTDIvol=2.5, Exposure=40, KVP=120)
    write_series(folder / "b", smooth_volume(4, 16, 16), ConvolutionKernel="B70f", Manufacturer="ACME")
    write_series(folder / "c", smooth_volume(3), PatientID="TEST-2", StudyInstanceUID="2.25.1003")
    write_series(folder / "d", smooth_volume(1), ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    (folder / "notes.txt").write_text("no DICOM")
    whole = (folder / "a" / "slice-0000.dcm").read_bytes()
    (folder / "a" / "slice-0009.dcm").write_bytes(whole[:-100])
    return folder


@pytest.mark.usefixtures("cache")
def test_a_row_holds_what_the_headers_say(mixed: Path) -> None:
    first, second, third, localizer = sorted(inventoried(mixed), key=lambda row: -row.slices)
    assert (first.rows, first.columns, first.slices, first.volumes, first.spacing) == (32, 24, 6, 1, 2.5)
    assert (first.kernel, first.ctdi_vol, first.exposure, first.kvp, first.modality) == ("B30f", 2.5, 40.0, 120.0, "CT")
    assert (first.patient, first.study, first.pixel_spacing, first.thickness) == ("TEST-1", "2.25.1001", 0.7, 2.5)
    assert first.transfer_syntax == "Explicit VR Little Endian"
    assert list(first.orientation) == [1, 0, 0, 0, 1, 0]
    assert first.objects == 7
    assert first.bytes == sum(path.stat().st_size for path in (mixed / "a").iterdir())
    ((reason, count),) = first.reasons
    assert (count, reason.split(":")[0]) == (1, "truncated")
    assert (second.kernel, second.manufacturer, second.ctdi_vol, second.rows) == ("B70f", "ACME", None, 16)
    assert third.patient == "TEST-2"
    assert localizer.refused == "no CT image: 1 x a localizer (ImageType LOCALIZER)"
    assert not localizer.usable


@pytest.mark.usefixtures("cache")
def test_objects_of_no_series_are_counted_by_the_reason_of_the_reader(mixed: Path) -> None:
    with open_inventory(str(mixed)) as opened:
        opened.update()
        (other,) = opened.others()
    assert (other.reason, other.objects, other.bytes) == ("not DICOM", 1, 8)


def arranged(slices: list[Slice]) -> tuple[list[CTSeries], str]:
    """Return the volumes of a series as a run finds them, or why it refuses the series."""
    try:
        return arrange(set_copies_aside(slices)[0]), ""
    except CtbasisError as error:
        return [], error.found


@pytest.mark.data
@pytest.mark.usefixtures("cache")
@pytest.mark.parametrize("name", ["dicom-robustness", "lidc-idri-0001", "lung-pet-ct-dx-a0001"])
def test_real_files_are_grouped_and_set_aside_as_a_run_does(name: str, real_data: Callable[[str], Path]) -> None:
    folder = real_data(name)
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    expected: Counter[str] = Counter()
    slices: dict[str, list[Slice]] = {}
    for file in files:
        for result in read_file(folder, None, file):
            if isinstance(result, SetAside):
                expected[result.reason] += 1
            else:
                slices.setdefault(result[0].SeriesInstanceUID, []).append(result[0])
    with open_inventory(str(folder)) as opened:
        opened.update()
        rows = list(opened.rows())
        index = opened._index
        uids = ["", *(series for _, _, series, _ in index.series())]
        headers = [header for uid in uids for _, _, header in index.headers(uid)]
    assert len(headers) == len(files)
    assert Counter(aside.reason for header in headers for aside in header.aside) == expected
    by_uid: dict[str, list[SeriesRow]] = {}
    for row in rows:
        by_uid.setdefault(row.series, []).append(row)
    for uid, entries in slices.items():
        found = by_uid[uid]
        volumes, refusal = arranged(entries)
        if refusal:
            assert any(row.refused == refusal or row.remarks for row in found)
            continue
        assert [row.refused for row in found] == [""] * len(found)
        assert sum(row.volumes for row in found) == len(volumes)
        assert sum(row.slices for row in found) == sum(len(volume.slices) for volume in volumes)


@pytest.mark.usefixtures("cache")
def test_one_series_uid_in_two_patients_gives_two_rows_with_their_own_objects(
    tmp_path: Path, write_series: WriteSeries
) -> None:
    folder = tmp_path / "source"
    for patient in ("ONE", "TWO"):
        write_series(folder / patient, smooth_volume(4), PatientID=patient, SeriesInstanceUID="2.25.7")
    with open_inventory(str(folder)) as opened:
        opened.update()
        rows = list(opened.rows())
        objects = [{entry.key.split("/")[0] for entry in opened.objects(row)} for row in rows]
    assert [(row.patient, row.series, row.slices, row.refused) for row in rows] == [
        ("ONE", "2.25.7", 4, ""),
        ("TWO", "2.25.7", 4, ""),
    ]
    assert objects == [{"ONE"}, {"TWO"}]
    assert rows[0].digest != rows[1].digest


@pytest.mark.usefixtures("cache")
def test_slices_with_a_series_uid_each_are_put_together_as_in_a_run(tmp_path: Path, write_series: WriteSeries) -> None:
    def separate(ds: FileDataset, z: int) -> None:
        ds.SeriesInstanceUID = f"2.25.70{z}"

    write_series(tmp_path / "source", smooth_volume(5), edit=separate)
    with open_inventory(str(tmp_path / "source")) as opened:
        opened.update()
        (row,) = opened.rows()
        assert (row.slices, row.objects, row.volumes) == (5, 5, 1)
        assert len(list(opened.objects(row))) == 5
    assert "put together from 5 series" in row.remarks[0]


@pytest.mark.usefixtures("cache")
def test_a_series_that_no_run_accepts_is_refused_with_the_words_of_the_run(
    tmp_path: Path, write_series: WriteSeries
) -> None:
    def change_size(ds: FileDataset, z: int) -> None:
        if z == 2:
            ds.Rows, ds.Columns = 24, 32

    write_series(tmp_path / "source", smooth_volume(4), edit=change_size, SeriesInstanceUID="2.25.8")
    (row,) = inventoried(tmp_path / "source")
    assert row.refused.startswith("series 2.25.8 has images of 32 x 24 (slice-0000.dcm) and of 24 x 32")
    assert row.slices == 0


@pytest.mark.usefixtures("cache")
def test_phases_of_a_series_are_volumes_of_its_row(tmp_path: Path, write_series: WriteSeries) -> None:
    for phase in (1, 2):
        write_series(
            tmp_path / "source" / str(phase),
            smooth_volume(4, seed=phase),
            SeriesInstanceUID="2.25.9",
            TemporalPositionIdentifier=phase,
        )
    (row,) = inventoried(tmp_path / "source")
    assert (row.volumes, row.slices, row.refused) == (2, 8, "")


def test_pixels_do_not_leave_the_bucket(
    tmp_path: Path, write_series: WriteSeries, cache: Path, aws: S3Server, recorded: list[Recorded], prefix: str
) -> None:
    del cache
    write_series(tmp_path / "source", np.zeros((8, 512, 512), np.int16))
    aws.put_folder(tmp_path / "source", prefix)
    (row,) = inventoried(prefix)
    assert (row.slices, row.objects) == (8, 8)
    assert row.bytes is not None
    assert row.bytes > 8 << 19
    (source,) = recorded
    assert [(start, count) for _, start, count in source.reads] == [(0, 1 << 16)] * 8
    # A repeated inventory reads nothing at all.
    assert inventoried(prefix) == [row]
    assert recorded[1].reads == []


@pytest.mark.usefixtures("cache")
def test_the_members_of_an_archive_are_read_in_place(
    tmp_path: Path, write_series: WriteSeries, recorded: list[Recorded]
) -> None:
    images = np.random.default_rng(0).integers(-1000, 1000, (8, 512, 512)).astype(np.int16)
    paths = write_series(tmp_path / "series", images)
    source = tmp_path / "source"
    source.mkdir()
    with zipfile.ZipFile(source / "scan.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in paths:
            archive.write(path, path.name)
    with open_inventory(str(source)) as opened:
        opened.update()
        (row,) = opened.rows()
        objects = list(opened.objects(row))
    assert (row.slices, row.objects) == (8, 8)
    assert [entry.key for entry in objects] == ["scan.zip"]
    assert recorded[0].bytes < (source / "scan.zip").stat().st_size / 2
    assert inventoried(source) == [row]
    assert recorded[1].reads == []


@pytest.mark.usefixtures("cache")
def test_an_interrupted_inventory_keeps_what_it_has_read(
    tmp_path: Path, write_series: WriteSeries, recorded: list[Recorded], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "source", smooth_volume(20))
    monkeypatch.setattr("ctbasis.cohort.header_reader.BATCH", 4)
    listed = FolderSource.objects

    def interrupted(source: FolderSource) -> Iterator[RemoteObject]:
        for number, entry in enumerate(listed(source)):
            if number == 14:
                raise KeyboardInterrupt
            yield entry

    monkeypatch.setattr(FolderSource, "objects", interrupted)
    result = CliRunner().invoke(main, ["inventory", str(tmp_path / "source")])
    assert result.exit_code == 130
    assert "the headers that were read are kept" in result.stderr
    monkeypatch.setattr(FolderSource, "objects", listed)
    (row,) = inventoried(tmp_path / "source")
    assert row.slices == 20
    read_before = {key for key, _, _ in recorded[0].reads}
    read_again = {key for key, _, _ in recorded[1].reads}
    assert len(read_again) <= 20 - 8
    assert read_before | read_again == {f"slice-{z:04d}.dcm" for z in range(20)}


@pytest.mark.usefixtures("cache")
def test_only_new_and_changed_objects_are_read_again_and_deleted_ones_are_forgotten(
    tmp_path: Path, write_series: WriteSeries, recorded: list[Recorded]
) -> None:
    source = tmp_path / "source"
    paths = write_series(source, smooth_volume(8))
    (before,) = inventoried(source)
    paths[0].unlink()
    paths[7].write_bytes(paths[7].read_bytes()[:-10])
    (after,) = inventoried(source)
    assert [key for key, _, _ in recorded[1].reads] == [paths[7].name]
    assert (before.slices, after.slices, after.objects, after.set_aside) == (8, 6, 7, 1)
    assert before.digest != after.digest


@pytest.mark.usefixtures("cache")
def test_an_object_that_cannot_be_read_costs_itself_and_is_tried_again(
    tmp_path: Path, write_series: WriteSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = write_series(tmp_path / "source", smooth_volume(6))
    read = FolderSource.read

    def refusing(source: FolderSource, entry: RemoteObject, start: int, stop: int) -> bytes:
        if entry.key == paths[2].name:
            raise CtbasisError("denied")
        return read(source, entry, start, stop)

    monkeypatch.setattr(FolderSource, "read", refusing)
    with open_inventory(str(tmp_path / "source")) as opened:
        opened.update()
        assert [other.reason for other in opened.others()] == ["the source refuses to read it"]
        (row,) = opened.rows()
        assert row.slices == 5
    monkeypatch.setattr(FolderSource, "read", read)
    (row,) = inventoried(tmp_path / "source")
    assert row.slices == 6


@pytest.mark.usefixtures("cache")
def test_a_source_that_refuses_every_object_ends_the_inventory(
    tmp_path: Path, write_series: WriteSeries, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path / "source", smooth_volume(20))

    def refusing(_source: FolderSource, _entry: RemoteObject, _start: int, _stop: int) -> bytes:
        raise CtbasisError("the token has expired")

    monkeypatch.setattr(FolderSource, "read", refusing)
    with pytest.raises(CtbasisError, match="the token has expired"):
        inventoried(tmp_path / "source")


MEASURED = """
import resource
import sys
from ctbasis.cohort.inventory import open_inventory
with open_inventory(sys.argv[1]) as opened:
    objects = opened.update()
    slices = sum(row.slices for row in opened.rows("slices > 40"))
print(objects, slices, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.usefixtures("cache")
def test_ten_thousand_objects_take_no_more_memory_than_a_thousand(tmp_path: Path, write_series: WriteSeries) -> None:
    (template,) = write_series(
        tmp_path,
        smooth_volume(1, 8, 8),
        SeriesInstanceUID="2.25.1000000000",
        SOPInstanceUID="2.25.2000000000",
        StudyInstanceUID="2.25.3000000000",
        ImagePositionPatient=["0", "0", "-1000.0"],
    )
    peaks = []
    for series in (20, 200):
        copies(template, tmp_path / f"{series}", series=series, slices=50)
        command = [sys.executable, "-c", MEASURED, str(tmp_path / f"{series}")]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        objects, slices, peak = map(int, done.stdout.split())
        assert (objects, slices) == (50 * series, 50 * series)
        peaks.append(peak / 1024)
    assert peaks[1] - peaks[0] < 16, f"{peaks} MiB"


def test_no_identity_is_in_a_deidentified_inventory(mixed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CTBASIS_DEIDENTIFY_SALT", SALT)
    arguments = ["inventory", str(mixed), "--deidentify", "--json"]
    first, second = (CliRunner().invoke(main, arguments) for _ in range(2))
    assert first.exit_code == 0, first.output
    assert first.stdout == second.stdout
    assert not any(
        secret in first.output for secret in ("TEST-1", "TEST-2", "2.25.1001", "2.25.1003", "slice-0000", "Made")
    )
    rows = json.loads(first.stdout)["series"]
    assert {row["patient"][:4] for row in rows} == {"CTB-"}
    assert len({row["patient"] for row in rows}) == 2
    (index,) = (cache / "ctbasis" / "inventory").iterdir()
    assert stat.S_IMODE(index.stat().st_mode) == 0o600
    assert b"TEST-1" not in index.read_bytes()


def test_with_a_random_salt_no_index_is_kept(mixed: Path, cache: Path) -> None:
    with open_inventory(str(mixed), deidentification=Deidentification.of()) as opened:
        opened.update()
        assert len(list(opened.rows())) == 4
    assert not cache.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no database" * 100, "is no index"),
        ("another database", "database of another program"),
        ("another source", "index of another source"),
        ("damaged", "damaged"),
    ],
)
def test_a_file_that_is_no_index_of_this_source_is_refused_and_kept(
    content: bytes | str, message: str, mixed: Path, tmp_path: Path, series: Path
) -> None:
    state = tmp_path / "index"
    if isinstance(content, bytes):
        state.write_bytes(content)
    elif content == "another database":
        with sqlite3.connect(state) as database:
            database.execute("CREATE TABLE letters (text TEXT)")
        database.close()
    else:
        with open_inventory(str(series if content == "another source" else mixed), state=state) as opened:
            opened.update()
    if content == "damaged":
        with sqlite3.connect(state) as database:
            database.execute("UPDATE objects SET header = x'00'")
            database.execute("UPDATE rows SET document = '{'")
        database.close()
    before = state.read_bytes()
    with pytest.raises(CtbasisError, match=message), open_inventory(str(mixed), state=state) as opened:
        list(opened.rows())
    assert state.read_bytes() == before


def test_an_index_in_use_is_refused(mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctbasis.cohort.inventory_index.LOCK_SECONDS", 0.1)
    with (
        open_inventory(str(mixed), state=tmp_path / "index"),
        pytest.raises(CtbasisError, match="is in use"),
        open_inventory(str(mixed), state=tmp_path / "index"),
    ):
        pass


@pytest.mark.usefixtures("cache")
def test_an_empty_source_is_refused(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    with pytest.raises(CtbasisError, match="holds no object"):
        inventoried(tmp_path / "source")


@pytest.mark.usefixtures("cache")
def test_the_selected_series_are_a_source_of_their_own(mixed: Path, tmp_path: Path) -> None:
    with selected_source(str(mixed), 'kernel == "B70f"') as uri:
        fetch(uri, tmp_path / "fetched")
    found = sorted(path.relative_to(tmp_path / "fetched").as_posix() for path in (tmp_path / "fetched").rglob("*.dcm"))
    assert found == [f"b/slice-{z:04d}.dcm" for z in range(4)]


@pytest.mark.usefixtures("cache")
def test_a_selection_of_nothing_is_refused(mixed: Path, tmp_path: Path) -> None:
    with pytest.raises(CtbasisError, match="selects none of the 3 series"), selected_source(str(mixed), "slices > 400"):
        pass
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("a")
    with (
        pytest.raises(CtbasisError, match="no series that can be denoised") as caught,
        selected_source(str(tmp_path / "texts"), "slices > 4"),
    ):
        pass
    assert caught.value.details == ("1 x not DICOM",)


@pytest.mark.usefixtures("cache")
def test_the_verb_writes_a_table_csv_and_json_of_the_same_rows(mixed: Path) -> None:
    table, as_csv, as_json = (
        CliRunner().invoke(main, ["inventory", str(mixed), "--where", 'modality == "CT" and slices > 0', *form])
        for form in ([], ["--csv"], ["--json"])
    )
    assert (table.exit_code, as_csv.exit_code, as_json.exit_code) == (0, 0, 0), table.output
    rows = [SeriesRow.from_json(row) for row in json.loads(as_json.stdout)["series"]]
    assert len(rows) == 3
    lines = list(csv.DictReader(as_csv.stdout.splitlines()))
    assert list(lines[0]) == list(COLUMNS)
    assert [line["series"] for line in lines] == [row.series for row in rows]
    for row in rows:
        assert f"{row.rows} × {row.columns} × {row.slices}" in table.stdout
        assert row.series in table.stdout
    assert "3 series, 3 can be denoised: 13 slices" in table.stdout
    assert "1 objects of no series" in table.stdout


@pytest.mark.usefixtures("cache")
def test_hostile_texts_of_headers_stay_on_their_line_and_form_no_formula(
    tmp_path: Path, write_series: WriteSeries
) -> None:
    write_series(
        tmp_path / "source",
        smooth_volume(3),
        SpecificCharacterSet="ISO_IR 192",
        Manufacturer="ACME\u202e",
        SeriesDescription='=HYPERLINK("x")',
    )
    for form in ([], ["--csv"], ["--json"]):
        result = CliRunner().invoke(main, ["inventory", str(tmp_path / "source"), *form])
        assert result.exit_code == 0
        assert "\u202e" not in result.stdout
    as_csv = CliRunner().invoke(main, ["inventory", str(tmp_path / "source"), "--csv"]).stdout
    (line,) = csv.DictReader(as_csv.splitlines())
    assert line["description"].startswith("'=")
