from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctbasis.sources import etag
from ctbasis.sources.etag import MEBIBYTE, PART_SIZES, Digest, Verdict


def multipart(content: bytes, part: int) -> str:
    digests = [hashlib.md5(content[start : start + part]).digest() for start in range(0, len(content), part)]  # noqa: S324 - as S3
    return f"{hashlib.md5(b''.join(digests)).hexdigest()}-{len(digests)}"  # noqa: S324 - as S3


def judged(content: bytes, promised: str, size: int | None = None, piece: int = 700_001) -> Verdict:
    digest = Digest(promised, len(content) if size is None else size)
    for start in range(0, len(content), piece):
        digest.update(content[start : start + piece])
    return digest.verdict()


@given(st.binary(max_size=64))
def test_the_md5_of_a_content_matches_it_alone(content: bytes) -> None:
    promised = hashlib.md5(content).hexdigest()  # noqa: S324 - as S3
    assert judged(content, promised) is Verdict.MATCHES
    assert judged(content + b"x", promised) is Verdict.DIFFERS
    assert judged(content + b"x", promised, size=len(content) + 1) is Verdict.DIFFERS


@pytest.mark.parametrize("part", [size * MEBIBYTE for size in (5, 8, 16)])
@pytest.mark.parametrize("extra", [0, 1, 4_000_000])
def test_the_etag_of_an_upload_in_usual_parts_matches(part: int, extra: int) -> None:
    content = bytes(range(251)) * ((2 * part + extra) // 251)
    assert judged(content, multipart(content, part)) is Verdict.MATCHES


def test_the_etag_of_an_upload_in_odd_parts_tells_nothing_and_accuses_nobody() -> None:
    content = bytes(20 * MEBIBYTE)
    assert judged(content, multipart(content, 7 * MEBIBYTE)) is Verdict.UNTOLD


@given(data=st.binary(min_size=1, max_size=60), part=st.integers(1, 20), piece=st.integers(1, 70))
def test_pieces_of_any_size_give_the_same_multipart_etag(data: bytes, part: int, piece: int) -> None:
    parted = etag._Parted(part)
    for start in range(0, len(data), piece):
        parted.update(data[start : start + piece])
    assert parted.etag() == multipart(data, part)


@pytest.mark.parametrize("promised", ["", "17f3c2a", "not-an-md5", "d41d8cd98f00b204e9800998ecf8427e-x"])
def test_what_is_no_md5_is_judged_by_size_alone(promised: str) -> None:
    assert judged(b"content", promised) is Verdict.UNTOLD
    assert judged(b"content", promised, size=8) is Verdict.DIFFERS
    assert not Digest(promised, 7).tells


def test_the_default_part_of_the_usual_tools_is_among_those_tried() -> None:
    assert 8 * MEBIBYTE in PART_SIZES
