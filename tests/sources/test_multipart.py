"""Messages of type multipart/related: their content, wherever the network cuts them into pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctbasis.sources.multipart import MultipartError, Part, PartReader, boundary_of, only_part


def message(content: bytes, boundary: bytes = b"b", head: bytes = b"Content-Type: application/dicom\r\n") -> bytes:
    return b"--" + boundary + b"\r\n" + head + b"\r\n" + content + b"\r\n--" + boundary + b"--"


def cut(data: bytes, sizes: list[int]) -> list[bytes]:
    pieces, start = [], 0
    for size in [*sizes, len(data)]:
        pieces.append(data[start : start + size])
        start += size
    return [piece for piece in pieces if piece]


@given(
    st.binary(max_size=200).filter(lambda content: b"\r\n--b" not in content), st.lists(st.integers(1, 40), max_size=40)
)
def test_the_content_of_the_part_is_given_however_it_is_cut(content: bytes, sizes: list[int]) -> None:
    assert b"".join(only_part(cut(message(content), sizes), b"b")) == content


CONTENTS = st.lists(st.binary(max_size=60).filter(lambda content: b"\r\n--b" not in content), min_size=1, max_size=4)


@given(CONTENTS, st.lists(st.integers(1, 40), max_size=40))
def test_every_part_is_given_however_the_message_is_cut(contents: list[bytes], sizes: list[int]) -> None:
    whole = b"".join(b"\r\n--b\r\nA: b\r\n\r\n" + content for content in contents) + b"\r\n--b--"
    reader, parts = PartReader(b"b"), []
    for piece in cut(whole, sizes):
        for found in reader.feed(piece):
            if found is Part.BEGIN:
                parts.append(b"")
            elif isinstance(found, bytes):
                parts[-1] += found
    assert parts == contents
    assert reader.ended


@pytest.mark.parametrize("end", range(1, len(message(b"content"))))
def test_an_answer_that_ends_early_is_refused(end: int) -> None:
    with pytest.raises(MultipartError, match=r"ends before"):
        list(only_part([message(b"content")[:end]], b"b"))


def test_a_preamble_an_empty_header_and_an_epilogue_are_no_content() -> None:
    assert b"".join(only_part([b"preamble\r\n" + message(b"x") + b"\r\nepilogue"], b"b")) == b"x"
    assert b"".join(only_part([message(b"x", head=b"")], b"b")) == b"x"


def test_two_parts_are_refused() -> None:
    with pytest.raises(MultipartError, match="more than one part"):
        list(only_part([message(b"x")[:-2] + b"\r\n\r\ny\r\n--b--"], b"b"))


def test_an_endless_head_is_refused() -> None:
    with pytest.raises(MultipartError, match="no part"):
        list(only_part([b" " * 10_000] * 10, b"b"))


@pytest.mark.parametrize(
    ("kind", "boundary"),
    [
        ('multipart/related; type="application/dicom"; boundary="a b"', b"a b"),
        ("multipart/related;boundary=abc", b"abc"),
        ("text/html", None),
        ("", None),
        ("multipart/related", None),
        (f"multipart/related; boundary={'x' * 71}", None),
    ],
)
def test_the_boundary_is_that_of_the_content_type(kind: str, boundary: bytes | None) -> None:
    if boundary is None:
        with pytest.raises(MultipartError):
            boundary_of(kind)
    else:
        assert boundary_of(kind) == boundary
