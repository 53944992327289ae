"""Error codes of S3: each known one is explained by its own cause, an unknown one without a guess."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from ctbasis.errors import CtbasisError
from ctbasis.storage.s3 import Bucket
from ctbasis.storage.s3_answers import ANSWERS, TOO_SKEWED, skew_answer
from tests.services import remove_aws_configuration

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def bucket() -> Iterator[Bucket]:
    with pytest.MonkeyPatch.context() as patch:
        remove_aws_configuration(patch)
        patch.setenv("AWS_ACCESS_KEY_ID", "known")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "hidden-secret")
        yield Bucket("ct", what="source", connections=1)


def answer(code: str, status: int = 403) -> ClientError:
    response: Any = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": {}}}
    return ClientError(response, "GetObject")


@pytest.mark.parametrize("status", [400, 403])
@pytest.mark.parametrize("code", ANSWERS)
def test_each_known_code_is_explained_by_its_own_cause(code: str, status: int, bucket: Bucket) -> None:
    error = bucket.translate(answer(code, status))
    assert isinstance(error, CtbasisError)
    assert f"({code})" in error.found
    assert error.cause == ANSWERS[code].cause
    assert error.remedy == ANSWERS[code].remedy


def test_an_unknown_code_is_named_and_no_key_is_suspected(bucket: Bucket) -> None:
    error = bucket.translate(answer("FrobnicationForbidden"))
    assert isinstance(error, CtbasisError)
    assert "FrobnicationForbidden (403)" in error.found
    assert not error.cause
    assert "AWS_" not in str(error)


@pytest.mark.parametrize("code", ["InvalidObjectState", "KMS.DisabledException", "RequestExpired", TOO_SKEWED])
def test_what_is_no_matter_of_keys_does_not_name_them(code: str, bucket: Bucket) -> None:
    assert "AWS_ACCESS_KEY_ID" not in str(bucket.translate(answer(code)))


@pytest.mark.parametrize("signed", [True, False])
def test_a_denied_access_names_the_keys_only_if_there_are_any(
    signed: bool, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not signed:
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        bucket = Bucket("ct", what="source", connections=1)
    error = bucket.translate(answer("AccessDenied"))
    assert isinstance(error, CtbasisError)
    assert ("Requester Pays" if signed else "no keys were found") in error.cause


@pytest.mark.parametrize(
    ("date", "words"),
    [
        (
            "Mon, 30 Nov 2026 12:00:00 GMT",
            "off by 20 minutes: it is fast, and the server's Date is 2026-11-30 12:00:00",
        ),
        ("Mon, 30 Nov 2026 15:20:00 GMT", "off by 3.0 hours: it is slow"),
        ("Wed, 25 Nov 2026 12:20:00 GMT", "off by 5 days: it is fast"),
        ("no date", "by more than 15 minutes"),
        ("", "by more than 15 minutes"),
    ],
)
def test_the_difference_of_the_clocks_is_stated(date: str, words: str) -> None:
    response = {"ResponseMetadata": {"HTTPHeaders": {"date": date}}}
    assert words in skew_answer(response, datetime(2026, 11, 30, 12, 20, tzinfo=UTC)).found
