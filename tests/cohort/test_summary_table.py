"""CSV and Parquet of a cohort: the rows of the page, readable by others."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import fields, replace
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from ctbasis.cohort.record import SeriesRecord, State
from ctbasis.cohort.series_row import COLUMNS
from ctbasis.cohort.summary import SUMMARY, write_summary
from ctbasis.cohort.summary_table import OUTCOMES, TABLE, UNPUBLISHED, to_csv, to_parquet
from ctbasis.errors import CtbasisError
from tests.cohort.cohorts import WARNING, cohort, record

OUTPUTS = Path(__file__).parents[2] / "docs" / "reference" / "outputs.md"


def test_three_files_are_written_and_no_others(tmp_path: Path) -> None:
    write_summary(cohort(3), tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(SUMMARY)


def test_a_summary_replaces_the_former_one(tmp_path: Path) -> None:
    for count in (5, 2):
        write_summary(cohort(count), tmp_path)
    assert len((tmp_path / "summary.csv").read_text().splitlines()) == 1 + 2


def test_a_place_that_cannot_be_written_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CtbasisError, match=r"summary\.csv cannot be written"):
        write_summary(cohort(1), tmp_path / "file")


def test_the_tables_have_every_field_of_the_records_but_pictures_and_digests() -> None:
    left_out = {"row", "thumbnail"}
    outcomes = {field.name for field in fields(SeriesRecord)} - left_out
    assert set(TABLE) == (set(COLUMNS) - UNPUBLISHED) | outcomes | {"removed"}


def test_both_tables_hold_the_same_rows() -> None:
    records = cohort(40)
    table = parquet.read_table(io.BytesIO(to_parquet(records)))
    rows = list(csv.DictReader(io.StringIO(to_csv(records).decode())))
    assert table.column_names == list(rows[0]) == list(TABLE)
    assert table.num_rows == len(rows) == 40
    for text, values, entry in zip(rows, table.to_pylist(), records, strict=True):
        assert values["series"] == text["series"] == entry.row.series
        assert values["removed"] == entry.removed
        for name, value in values.items():
            if value is None:
                assert text[name] == ""
            elif isinstance(value, list):
                assert text[name] == " | ".join(value)
            else:
                assert type(value)(text[name]) == value


def test_columns_of_parquet_have_types_units_and_a_meaning() -> None:
    schema = parquet.read_schema(io.BytesIO(to_parquet(cohort(2))))
    assert schema.field("noise_before").type == pa.float64()
    assert schema.field("slices").type == pa.int64()
    assert schema.field("warnings").type == pa.list_(pa.string())
    assert schema.field("seconds").metadata[b"unit"] == b"s"
    assert all(schema.field(name).metadata[b"meaning"] for name in TABLE)


def test_the_types_do_not_depend_on_the_rows() -> None:
    schemas = [parquet.read_schema(io.BytesIO(to_parquet(records))) for records in ([], [record(0, State.FAILED)])]
    assert schemas[0].equals(schemas[1])


@pytest.mark.parametrize("text", ["=HYPERLINK(1)", "+1", "-1", "@SUM(A1)", " =1+1"])
def test_a_spreadsheet_takes_no_text_of_a_header_for_a_formula(text: str) -> None:
    (row,) = csv.DictReader(io.StringIO(to_csv([record(0, description=text)]).decode()))
    assert row["description"] == f"'{text}"


def test_texts_that_are_no_utf_8_and_line_breaks_are_written_as_escapes() -> None:
    entry = replace(record(0, description="a\r\nb\udcff"), warnings=("one\ntwo",))
    (row,) = csv.DictReader(io.StringIO(to_csv([entry]).decode()))
    (values,) = parquet.read_table(io.BytesIO(to_parquet([entry]))).to_pylist()
    assert row["description"] == values["description"] == r"a\r\nb\udcff"
    assert values["warnings"] == [r"one\ntwo"]


def test_a_record_is_the_same_after_json() -> None:
    for entry in cohort(20):
        assert SeriesRecord.from_json(json.loads(json.dumps(entry.to_json()))) == entry


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("state", "well"),
        ("seconds", -1),
        ("seconds", True),
        ("noise_before", float("nan")),
        ("reason", None),
        ("thumbnail", "?"),
        ("warnings", [1]),
        ("row", {}),
        ("other", 1),
    ],
)
def test_a_record_that_is_not_valid_is_refused(name: str, value: object) -> None:
    with pytest.raises(CtbasisError, match="not valid"):
        SeriesRecord.from_json({**record(0).to_json(), name: value})


def test_the_metrics_of_a_report_complete_a_record(tmp_path: Path) -> None:
    metrics = {
        "mode": "global",
        "noise_before_hu": 40.0,
        "noise_after_hu": 10,
        "warnings": [WARNING],
        "thumbnail": "QQ==",
    }
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    entry = record(0, State.NOT_RUN).measured(tmp_path)
    assert (entry.mode, entry.noise_before, entry.removed, entry.warnings) == ("global", 40, 0.75, (WARNING,))
    assert entry.thumbnail == b"A"
    (tmp_path / "metrics.json").write_text('{"mode": "global"}')
    with pytest.raises(CtbasisError, match=r"metrics\.json cannot be read"):
        entry.measured(tmp_path)


@pytest.mark.parametrize(("before", "after"), [(None, None), (None, 1.0), (0.0, 0.0), (40.0, None)])
def test_the_share_removed_is_unknown_where_a_noise_is_or_where_there_was_none(
    before: float | None, after: float | None
) -> None:
    assert replace(record(0), noise_before=before, noise_after=after).removed is None


def test_the_page_of_outputs_lists_the_columns_with_their_meanings() -> None:
    section = OUTPUTS.read_text(encoding="utf-8").split("\n## Summary of a cohort\n")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", section, flags=re.MULTILINE))
    assert rows == {
        name: f"{column.meaning}, {column.unit}" if column.unit else column.meaning for name, column in OUTCOMES.items()
    }
