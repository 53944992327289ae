"""What every source promises, on a real server of each kind: S3, Google, Azure, a web server, DICOMweb.

A new source joins by its class and its row in tests/repositories.py.
"""

from __future__ import annotations

import gzip
import time
from typing import TYPE_CHECKING, Any

import pytest
from pydicom.uid import generate_uid

from ctbasis.errors import CtbasisError
from ctbasis.sources import fetch as fetch_module
from ctbasis.sources import retries
from ctbasis.sources.fetch import fetch
from ctbasis.sources.fetch_index import INDEX
from ctbasis.sources.schemes import SCHEMES, open_source
from ctbasis.storage import least_rate, s3
from tests.conftest import smooth_volume
from tests.repositories import REPOSITORIES, SAME_AS, SECRET, use
from tests.sources.interposed import Handler, Interposed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.conftest import WriteSeries
    from tests.repositories import Repository

PATIENCE_SECONDS = 60
"""Wall time of a refusal at most, on a loaded machine."""


@pytest.fixture
def files(write_series: WriteSeries, tmp_path: Path) -> dict[str, bytes]:
    """Return six DICOM files of 3 KB by name, of one study, with identifiers of their own."""
    folder = tmp_path / "made"
    # A study of its own: the tests share the archive.
    paths = write_series(folder, smooth_volume(), StudyInstanceUID=generate_uid())
    return {f"series/{path.name}": path.read_bytes() for path in paths}


@pytest.fixture
def filled(repository: Repository, files: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> Repository:
    """Return a repository of each kind that holds the files; the variables name it, and waiting times are short."""
    use(monkeypatch, repository.environment(repository.endpoint))
    for name, content in files.items():
        repository.put(name, content)
    monkeypatch.setattr(retries, "FIRST_DELAY_SECONDS", 0.01)
    return repository


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and not path.relative_to(folder).parts[0].startswith(".ctbasis-")
    }


def fetched_through(
    filled: Repository, server: Interposed, out: Path, monkeypatch: pytest.MonkeyPatch, workers: int = 1
) -> Any:
    with server:
        use(monkeypatch, filled.environment(server.url))
        return fetch(filled.uri(), out, workers=workers)


def refusal(filled: Repository, server: Interposed, out: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the message of a fetch that must fail in bounded time, which shows no secret and leaves no half file."""
    start = time.monotonic()
    with pytest.raises(CtbasisError) as caught:
        fetched_through(filled, server, out, monkeypatch)
    assert time.monotonic() - start < PATIENCE_SECONDS
    assert SECRET not in f"{caught.value}{caught.value!r}{caught.value.__cause__!r}"
    return str(caught.value)


def test_every_scheme_has_a_repository_in_these_tests() -> None:
    assert set(SCHEMES) - {"", "file", "objects"} == set(REPOSITORIES) | set(SAME_AS)
    assert set(SAME_AS.values()) <= set(REPOSITORIES)


def test_all_objects_arrive_whole_and_are_not_fetched_again(
    filled: Repository, files: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    report = fetch(filled.uri(), out, workers=4)
    assert sorted(contents(out).values()) == sorted(files.values())
    assert (report.objects, report.bytes, report.skipped) == (6, sum(map(len, files.values())), 0)
    if filled.names_are_free:
        assert contents(out) == files
        assert report.size_only == 0, "the digest of the listing was not compared"
    assert fetch(filled.uri(), out).skipped == 6
    assert SECRET not in (out / INDEX).read_text()


def test_what_changed_is_fetched_and_what_was_deleted_is_removed(
    filled: Repository, files: dict[str, bytes], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    fetch(filled.uri(), out)
    first, second, *_ = files
    if filled.names_are_free:
        filled.put(first, b"another content")
        assert fetch(filled.uri(), out).skipped == 5
        assert contents(out)[first] == b"another content"
    filled.delete(second)
    if filled.names_are_free and "manifest" in filled.uri():
        with pytest.raises(CtbasisError, match="answers 404"):
            fetch(filled.uri(), out)
        return
    assert fetch(filled.uri(), out).removed == 1
    assert len(contents(out)) == 5


def test_a_damaged_file_is_fetched_again(filled: Repository, files: dict[str, bytes], tmp_path: Path) -> None:
    out = tmp_path / "out"
    fetch(filled.uri(), out)
    victim = next(out.rglob("*.dcm"))
    victim.write_bytes(victim.read_bytes()[:-1])
    assert fetch(filled.uri(), out).skipped == 5
    assert sorted(contents(out).values()) == sorted(files.values())


@pytest.mark.parametrize(("start", "stop"), [(0, 1), (0, 1000), (1500, 1510), (5, 5), (10**6, 10**6 + 1)])
def test_a_range_is_that_of_the_object(filled: Repository, files: dict[str, bytes], start: int, stop: int) -> None:
    source = open_source(filled.uri(), 2)
    ranges = [source.read(entry, start, stop) for entry in source.objects()]
    assert sorted(ranges) == sorted(content[start:stop] for content in files.values())


def test_an_object_that_was_deleted_after_the_listing_is_told(
    filled: Repository, files: dict[str, bytes], tmp_path: Path
) -> None:
    source = open_source(filled.uri(), 2)
    entries = list(source.objects())
    for name in files:
        filled.delete(name)
    with pytest.raises(CtbasisError, match=r"replaced or deleted|answers 404"):
        source.download(entries[0], tmp_path / "file")
    with pytest.raises(CtbasisError, match=r"replaced or deleted|answers 404"):
        source.read(entries[0], 0, 10)


def test_another_object_under_the_name_is_refused_after_the_listing(
    filled: Repository, tmp_path: Path, files: dict[str, bytes]
) -> None:
    if not filled.names_are_free:
        # An archive keeps one instance of an identifier, which is the location here.
        return
    source = open_source(filled.uri(), 2)
    entries = list(source.objects())
    name = next(iter(files))
    filled.put(name, files[name][:-1] + b"#")
    with pytest.raises(CtbasisError, match="replaced or deleted"):
        source.download(next(entry for entry in entries if entry.key == name), tmp_path / "file")


@pytest.mark.parametrize("status", [429, 503])
def test_the_time_that_a_server_asks_for_is_waited(
    filled: Repository, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    left = {"object": 6, "listing": 1}

    def busy(kind: str) -> Callable[[Handler], bool]:
        def answer(handler: Handler) -> bool:
            left[kind] -= 1
            if left[kind] >= 0:
                handler.answer(status, b"busy", Retry_After="1")
            return left[kind] >= 0

        return answer

    server = Interposed(filled.endpoint, to_object=busy("object"), to_listing=busy("listing"))
    start = time.monotonic()
    # More refusals than there are attempts: a server that asks to wait is not given up.
    fetched_through(filled, server, tmp_path / "out", monkeypatch)
    assert sorted(contents(tmp_path / "out").values()) == sorted(files.values())
    assert time.monotonic() - start > 7
    pauses = [after - before for before, after in zip(server.objects, server.objects[1:7], strict=False)]
    assert min(pauses) >= 0.99


def test_a_server_that_asks_to_wait_for_ever_is_given_up(
    filled: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(handler: Handler) -> bool:
        handler.answer(503, b"busy", Retry_After="100000")
        return True

    message = refusal(filled, Interposed(filled.endpoint, to_object=busy), tmp_path / "out", monkeypatch)
    assert "100,000 s (Retry-After)" in message


def test_a_token_that_expires_in_the_middle_is_told_and_the_fetch_continues_later(
    filled: Repository, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, (status, text), left = tmp_path / "out", filled.expired, [3]

    def answer(handler: Handler) -> bool:
        left[0] -= 1
        if left[0] < 0:
            handler.answer(status, text.encode(), Content_Type="application/xml")
        return left[0] < 0

    message = refusal(filled, Interposed(filled.endpoint, to_object=answer), out, monkeypatch)
    assert "expired" in message
    assert filled.renews in message
    assert len(contents(out)) == 3
    use(monkeypatch, filled.environment(filled.endpoint))
    assert fetch(filled.uri(), out).skipped == 3
    assert sorted(contents(out).values()) == sorted(files.values())


HEADER = b"HTTP/1.1 200 OK\r\nContent-Type: multipart/related; boundary=x\r\nContent-Range: bytes 0-99999/100000\r\n"
"""Start of an answer of every kind: Azure's library asks for the range, DICOMweb for the type."""


def cut(handler: Handler) -> bool:
    """Break off in the middle of the content, whatever it is."""
    content = b"--x\r\n\r\n" + bytes(500)
    handler.answer(200, content, 5000, Content_Type="multipart/related; boundary=x", Content_Range="bytes 0-4999/5000")
    return True


def endless(handler: Handler) -> bool:
    handler.drip(
        HEADER + b"Transfer-Encoding: chunked\r\n\r\n7\r\n--x\r\n\r\n\r\n",
        b"10000\r\n" + bytes(0x10000) + b"\r\n",
        seconds=0,
    )
    return True


def slow(handler: Handler) -> bool:
    handler.drip(HEADER + b"Content-Length: 100000\r\n\r\n", b" ")
    return True


def slow_header(handler: Handler) -> bool:
    handler.drip(b"HTTP/1.1 200 OK\r\nX-Long: ", b"a")
    return True


def silent(handler: Handler) -> bool:
    handler.interposed.closing.wait(20)
    return True


def circle(handler: Handler) -> bool:
    handler.answer(302, b"", Location=f"{handler.interposed.url}{handler.path}")
    return True


def elsewhere(handler: Handler) -> bool:
    handler.answer(302, b"", Location="file:///etc/passwd")
    return True


def page(handler: Handler) -> bool:
    handler.answer(200, b"<html><body><p>Sign in</body></html>", Content_Type="text/html")
    return True


def failing(handler: Handler) -> bool:
    handler.answer(500, b"no")
    return True


def bomb(handler: Handler) -> bool:
    handler.answer(200, gzip.compress(bytes(50 << 20)), Content_Encoding="gzip", Content_Type="application/json")
    return True


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3, "READ_SECONDS", 1)
    monkeypatch.setattr(least_rate, "WINDOW_SECONDS", 0.5)
    monkeypatch.setattr(retries, "ATTEMPTS", 2)
    monkeypatch.setattr(fetch_module, "MAX_OBJECTS", 1000)
    monkeypatch.setattr("ctbasis.sources.received.MAX_UNSTATED_BYTES", 50 << 20)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("answer", [cut, endless, slow, slow_header, silent, circle, elsewhere, page, failing, bomb])
def test_no_answer_to_a_download_leaves_a_half_file_or_takes_for_ever(
    filled: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Handler], bool]
) -> None:
    message = refusal(filled, Interposed(filled.endpoint, to_object=answer), tmp_path / "out", monkeypatch)
    assert "remedy" in message
    if answer in {slow, slow_header}:
        assert "too slow" in message
    assert not contents(tmp_path / "out")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("answer", [endless, slow, slow_header, silent, circle, elsewhere, page, failing, bomb])
def test_no_answer_to_a_listing_takes_for_ever_or_fills_the_memory(
    filled: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: Callable[[Handler], bool]
) -> None:
    message = refusal(filled, Interposed(filled.endpoint, to_listing=answer), tmp_path / "out", monkeypatch)
    assert "remedy" in message
    if answer is endless:
        assert "64 MiB" in message
    if answer in {slow, slow_header}:
        assert "too slow" in message


def test_an_interrupted_download_is_repeated(
    filled: Repository, files: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [3]

    def answer(handler: Handler) -> bool:
        left[0] -= 1
        return left[0] >= 0 and cut(handler)

    fetched_through(filled, Interposed(filled.endpoint, to_object=answer), tmp_path / "out", monkeypatch)
    assert sorted(contents(tmp_path / "out").values()) == sorted(files.values())


def test_a_server_that_is_away_is_told(filled: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Interposed(filled.endpoint)
    with server:
        address = server.url
    use(monkeypatch, filled.environment(address))
    with pytest.raises(CtbasisError, match="does not answer"):
        fetch(filled.uri(), tmp_path / "out")


@pytest.mark.parametrize("name", ["a//b", "a b+c%20d", "ü/日本", "q?x=1&y=#z", "n" * 200])
def test_any_name_becomes_a_file(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    if not repository.names_are_free:
        # Its names are identifiers: tests/sources/test_dicomweb.py.
        return
    use(monkeypatch, repository.environment(repository.endpoint))
    repository.put(name, b"content")
    fetch(repository.uri(), tmp_path / "out")
    (content,) = contents(tmp_path / "out").values()
    assert content == b"content"


@pytest.mark.parametrize("scheme", ["s3", "gs", "az"])
@pytest.mark.parametrize(
    "name", ["../../up", "/root", "c/../../d", "..", "back\\..\\slash", "n" * 900, ".ctbasis-fetch.jsonl", "esc\x7f"]
)
def test_no_name_of_a_listing_leaves_the_folder(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str, name: str
) -> None:
    """Rewrite a name in the listing: the servers refuse to store some of these."""
    kind, server = REPOSITORIES[scheme]
    repository = kind(tmp_path / f"{abs(hash(request.node.nodeid)):x}", request.getfixturevalue(server))
    repository.put("placeholder", b"content")

    def content(handler: Handler) -> bool:
        handler.answer(206, b"content", Content_Range="bytes 0-6/7", ETag='"x"')
        return True

    listed = repository.in_listing(name).encode()
    rewriting = Interposed(
        repository.endpoint, to_object=content, rewrite=lambda body: body.replace(b"placeholder", listed)
    )
    before = set(tmp_path.rglob("*"))
    fetched_through(repository, rewriting, tmp_path / "deep" / "out", monkeypatch)
    (path,) = [tmp_path / "deep" / "out" / name for name in contents(tmp_path / "deep" / "out")]
    assert path.read_bytes() == b"content"
    new = set(tmp_path.rglob("*")) - before - {tmp_path / "deep"}
    assert all(path.resolve().is_relative_to(tmp_path / "deep" / "out") for path in new)
