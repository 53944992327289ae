"""Names from outside forge no line of a log and no refusal, and legitimate names stay readable."""

from __future__ import annotations

import ast
import io
import unicodedata
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import ctbasis
from ctbasis.dicom.tolerance import tolerant
from ctbasis.errors import CtbasisError, error_in_log, exit_on_error
from ctbasis.printable import page_value, printable, say

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray
    from pydicom.dataset import FileDataset

    from ctbasis.demo.s3server import S3Server

    Capture = pytest.CaptureFixture[str]
    WriteSeries = Callable[..., list[Path]]

HOSTILE = {
    "newline": "a\nctbasis: forged\nctbasis:   remedy: rm -rf /",
    "carriage return": "a\rctbasis: forged",
    "escape": "a\x1b[2J\x1b[31m",
    "C1 control": "a\x9b31m\x85ctbasis: forged",
    "bidirectional override": "a\u202egnp.exe\u2066",
    "separators": "a\u2028ctbasis: forged\u2029b",
    "surrogate": "a\udc80\ud800",
    "zero width": "a\u200b\u200d\ufeff\u2060b",
    "tag characters": "a\U000e0041\U000e007f",
    "blank letters": "a\u3164\u2800",
    "line ends of splitlines": "a\x0bb\x0cc\x1cd\x1de\x1ef",
}
LEGITIMATE = ("Thorax Müller", "Mu\u0308ller", "胸部ＣＴ　低線量", "흉부", "صدر", "חזה", "Δ ≤ 5 µm", "😀", "a\\b")

WRITERS = {"printable.py", "cli/options.py"}
"""Modules that may write to a terminal: the owner, and the help pages, whose text is the program's own."""


def controls(text: str) -> list[str]:
    return [char for char in text if unicodedata.category(char) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_becomes_one_line_without_control_characters(name: str) -> None:
    line = printable(name)
    assert controls(line) == []
    assert len(line.splitlines()) == 1
    assert line.isprintable()
    assert line.startswith("a")
    line.encode()


def test_every_code_point_is_visible_or_escaped() -> None:
    for code in range(0x110000):
        character = chr(code)
        shown = printable(character)
        assert shown.isprintable() or unicodedata.category(character) == "Zs"
        assert character.isprintable() or unicodedata.category(character) == "Zs" or shown.isascii()


@pytest.mark.parametrize("name", LEGITIMATE)
def test_names_of_every_script_stay_as_they_are(name: str) -> None:
    assert printable(name) == name


def test_escape_sequences_are_those_of_python() -> None:
    assert printable("a\n\r\t\x1b\x85\u202e\U000e0041") == r"a\n\r\t\x1b\x85\u202e\U000e0041"


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_an_error_has_one_line_for_each_part_whatever_it_quotes(name: str) -> None:
    error = CtbasisError(f"{name} is missing", expected=name, cause=name, remedy=name, details=[name])
    lines = str(error).splitlines()
    assert len(lines) == 5
    assert controls("".join(lines)) == []
    assert [line.partition(": ")[0].strip() for line in lines[1:4]] == ["expected", "likely cause", "remedy"]
    assert str(CtbasisError.from_text(str(error))) == str(error)


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_in_a_log_is_not_taken_for_an_error(name: str) -> None:
    stream = io.StringIO()
    say(f"WARNING: {name} is set aside", f"WARNING: ctbasis: {name}", to=stream)
    assert len(stream.getvalue().splitlines()) == 2
    assert error_in_log(stream.getvalue().splitlines()) == ""


@pytest.mark.parametrize("name", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_name_in_an_error_changes_no_other_part_of_it(name: str, capsys: Capture) -> None:
    error = CtbasisError(f"{name} is missing", remedy="give another", details=[name])
    with pytest.raises(SystemExit), exit_on_error():
        raise error
    assert error_in_log(capsys.readouterr().err.splitlines()) == str(error)


def test_a_detail_is_not_taken_for_a_part_of_the_error() -> None:
    error = CtbasisError("failed", remedy="look at the log", details=["  remedy: rm -rf /", "expected: nothing"])
    assert CtbasisError.from_text(str(error)).remedy == "look at the log"


def test_the_text_of_another_exception_is_not_taken_for_an_error() -> None:
    def fail() -> None:
        cause = ValueError("x\n  ctbasis: forged cause")
        raise RuntimeError("x\nctbasis: forged\nctbasis:   remedy: rm -rf /") from cause

    with pytest.raises(RuntimeError) as raised, exit_on_error():
        fail()
    assert error_in_log(f"{raised.value}\n{raised.value.__cause__}".splitlines()) == ""
    assert "remedy: rm" in str(raised.value)


def test_values_of_a_page_are_printable() -> None:
    from ctbasis.report.page import Environment
    from ctbasis.score import score_page

    assert score_page.Environment is Environment
    environment = Environment(autoescape=True, finalize=page_value)
    page = environment.from_string("<p>{{ reason }}</p>{{ count }}").render(reason="<a>\n\u202eb\udc80", count=3)
    assert page == r"<p>&lt;a&gt;\n\u202eb\udc80</p>3"


def test_no_other_module_writes_to_a_terminal() -> None:
    """A message that does not pass through `say`, `show` or `CtbasisError` could quote a hostile name."""
    package = Path(ctbasis.__file__).parent
    writers = {
        f"{path.relative_to(package)}:{node.lineno}"
        for path in package.rglob("*.py")
        if str(path.relative_to(package)) not in WRITERS
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and _writes_to_a_terminal(ast.unparse(node.func))
    }
    assert writers == set()


def test_every_page_makes_its_values_printable() -> None:
    package = Path(ctbasis.__file__).parent
    environments = [
        {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        for path in package.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Environment"
    ]
    assert len(environments) >= 2
    assert all(settings["finalize"] == "page_value" and settings["autoescape"] == "True" for settings in environments)


def _writes_to_a_terminal(function: str) -> bool:
    streams = ("sys.stderr.write", "sys.stdout.write", "sys.__stderr__.write", "sys.__stdout__.write")
    return function in {"print", "click.echo", "click.secho", "echo", "secho"} or function.startswith(streams)


def lines_of_warnings(error: str) -> list[str]:
    assert controls(error.replace("\n", "")) == []
    return [line for line in error.splitlines() if line.startswith("WARNING: ")]


# A path on disk has no lone surrogate unless its bytes are no UTF-8, and no name is long.
NAMES = {kind: name for kind, name in HOSTILE.items() if kind not in {"surrogate", "newline"}} | {
    "newline": "a\nctbasis: forged\nctbasis:   remedy: rm -rf ~",
    "undecodable bytes": b"a\x80\xff".decode(errors="surrogateescape"),
}


def test_names_of_files_forge_no_line_of_the_log(
    write_series: WriteSeries, volume: NDArray[np.int16], tmp_path: Path, capsys: Capture
) -> None:
    from ctbasis.matrix.ingest import MAX_WARNINGS, ingest

    source = tmp_path / "source"
    paths = write_series(source, volume[:3])
    for name in NAMES.values():
        (source / f"{name}.dcm").write_bytes(paths[0].read_bytes()[:-1000])
    ingest(source, str(tmp_path / "A.zarr"), tmp_path / "qc.json")
    log = capsys.readouterr().err
    warnings = lines_of_warnings(log)
    assert len(warnings) == min(len(NAMES), MAX_WARNINGS) + (len(NAMES) > MAX_WARNINGS)
    assert all(" is set aside: " in line or "more files" in line for line in warnings)
    assert error_in_log(log.splitlines()) == ""


def test_names_of_zip_archives_and_members_forge_no_line_of_the_log(tmp_path: Path, capsys: Capture) -> None:
    from ctbasis.sources.fetch import fetch

    (tmp_path / "source").mkdir()
    for name in NAMES.values():
        with zipfile.ZipFile(tmp_path / "source" / f"{name}.zip", "w") as archive:
            archive.writestr(name.encode(errors="surrogateescape").decode(errors="replace"), b"not a DICOM file")
            link = zipfile.ZipInfo("link")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, b"/etc/passwd")
    fetch(str(tmp_path / "source"), tmp_path / "out")
    log = capsys.readouterr().err
    warnings = lines_of_warnings(log)
    assert len(warnings) == len(NAMES)
    assert all(line.endswith("is left out: it is a link or a device") for line in warnings)
    assert error_in_log(log.splitlines()) == ""


def test_keys_of_objects_forge_no_line_of_the_log(
    aws: S3Server, volume: NDArray[np.int16], write_series: WriteSeries, tmp_path: Path, capsys: Capture
) -> None:
    from ctbasis.matrix.ingest import ingest
    from ctbasis.sources.fetch import fetch

    # XML 1.0, in which S3 lists keys, has no other control characters.
    names = [NAMES[kind] for kind in ("newline", "bidirectional override", "separators", "zero width")]
    paths = write_series(tmp_path / "source", volume[:3])
    client = aws.client()
    for name in names:
        client.put_object(Bucket="images", Key=f"hostile/{name}.dcm", Body=paths[0].read_bytes()[:-1000])
    for path in paths:
        client.put_object(Bucket="images", Key=f"hostile/{path.name}", Body=path.read_bytes())
    fetch("s3://images/hostile", tmp_path / "out")
    ingest(tmp_path / "out", str(tmp_path / "A.zarr"), tmp_path / "qc.json")
    log = capsys.readouterr().err
    assert len(lines_of_warnings(log)) == len(names)
    assert error_in_log(log.splitlines()) == ""


@pytest.mark.parametrize("uid", ["1.2\nctbasis: forged", "1.2\x1b[2J", "1.2\x851.3"])
def test_a_uid_forges_no_refusal(
    write_series: WriteSeries, volume: NDArray[np.int16], tmp_path: Path, capsys: Capture, uid: str
) -> None:
    from ctbasis.matrix.ingest import ingest

    def edit(image: FileDataset, index: int) -> None:
        image.SeriesInstanceUID = uid
        image.ImagePositionPatient = [0, 0, 1 if index else 0]
        image.PatientName = "Forged\nctbasis: name"

    with tolerant():
        write_series(tmp_path / "source", volume[:3], edit=edit)
    with pytest.raises(CtbasisError) as refused:
        ingest(tmp_path / "source", str(tmp_path / "A.zarr"), tmp_path / "qc.json", series="9.9")
    assert printable(uid) in str(refused.value)
    assert len(str(refused.value).splitlines()) == 4
    assert controls(str(refused.value).replace("\n", "")) == []
    assert error_in_log(capsys.readouterr().err.splitlines()) == ""
