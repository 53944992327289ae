"""Comparison of content with the ETags of single and multipart uploads."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ctbasis.sources import etag
from ctbasis.sources.etag import MEBIBYTE, PART_SIZES, Digest, Verdict


def multipart_etag(content: bytes, part: int) -> str:
    digests = [hashlib.md5(content[start : start + part]).digest() for start in range(0, len(content), part)]  # noqa: S324 - S3 defines it so
    return f"{hashlib.md5(b''.join(digests)).hexdigest()}-{len(digests)}"  # noqa: S324 - S3 defines it so


def verdict(content: bytes, tag: str, size: int | None = None, step: int = 700_001) -> Verdict:
    digest = Digest(tag, len(content) if size is None else size)
    for start in range(0, len(content), step):
        digest.update(content[start : start + step])
    return digest.verdict()


@given(st.binary(max_size=64))
def test_an_md5_matches_only_its_own_content(content: bytes) -> None:
    tag = hashlib.md5(content).hexdigest()  # noqa: S324 - S3 defines it so
    assert verdict(content, tag) is Verdict.MATCHES
    assert verdict(content + b"x", tag) is Verdict.DIFFERS
    assert verdict(content + b"x", tag, size=len(content) + 1) is Verdict.DIFFERS


@pytest.mark.parametrize("part", [size * MEBIBYTE for size in (5, 8, 16)])
@pytest.mark.parametrize("extra", [0, 1, 4_000_000])
def test_the_etag_of_an_upload_with_a_usual_part_size_matches(part: int, extra: int) -> None:
    content = bytes(range(251)) * ((2 * part + extra) // 251)
    assert verdict(content, multipart_etag(content, part)) is Verdict.MATCHES


def test_the_etag_of_an_upload_with_an_unusual_part_size_is_inconclusive() -> None:
    content = bytes(20 * MEBIBYTE)
    assert verdict(content, multipart_etag(content, 7 * MEBIBYTE)) is Verdict.UNKNOWN


@given(data=st.binary(min_size=1, max_size=60), part=st.integers(1, 20), step=st.integers(1, 70))
def test_chunks_of_any_size_give_the_same_multipart_etag(data: bytes, part: int, step: int) -> None:
    digest = etag._MultipartDigest(part)
    for start in range(0, len(data), step):
        digest.update(data[start : start + step])
    assert digest.etag() == multipart_etag(data, part)


@pytest.mark.parametrize("tag", ["", "17f3c2a", "not-an-md5", "d41d8cd98f00b204e9800998ecf8427e-x"])
def test_an_etag_that_is_not_an_md5_is_compared_by_size_only(tag: str) -> None:
    assert verdict(b"content", tag) is Verdict.UNKNOWN
    assert verdict(b"content", tag, size=8) is Verdict.DIFFERS
    assert not Digest(tag, 7).is_comparable


def test_the_default_part_size_of_the_usual_tools_is_tried() -> None:
    assert 8 * MEBIBYTE in PART_SIZES
