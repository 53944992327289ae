"""A cohort whose source is S3, behind a server that fails in between: what is done stays, and a run continues."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ctbasis.cohort import dispatch
from ctbasis.cohort import run as run_module
from ctbasis.cohort.record import State
from ctbasis.cohort.run import run_cohort
from ctbasis.cohort.state import note_settings
from ctbasis.errors import CtbasisError
from ctbasis.storage.object_store import ObjectStore
from ctbasis.storage.prefix_claim import claimed
from tests.cohort.sources import SMALL, write_small
from tests.cohort.test_cohort_run import by_series, plan_of, states
from tests.sources.interposed import Interposed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ctbasis.cohort.plan import CohortPlan
    from ctbasis.demo.s3server import S3Server
    from tests.sources.interposed import Handler

EXPIRED = b"<?xml version='1.0'?><Error><Code>ExpiredToken</Code><Message>m</Message></Error>"


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def bucket(prefix: str, tmp_path: Path) -> tuple[str, list[str]]:
    """Return the URI of a source of three series, and their SeriesInstanceUIDs."""
    uids = [write_small(tmp_path / "ct" / str(number), number) for number in range(3)]
    store = ObjectStore(prefix)
    for path in (tmp_path / "ct").rglob("*.dcm"):
        store.upload(path.relative_to(tmp_path / "ct").as_posix(), path)
    return prefix, uids


def whole_objects(answer: Callable[[Handler], bool]) -> Callable[[Handler], bool]:
    """Answer requests for whole objects; the inventory asks for ranges."""
    return lambda handler: not handler.headers.get("Range") and answer(handler)


def test_a_key_that_expires_in_the_middle_is_named_and_the_same_command_continues(
    bucket: tuple[str, list[str]], aws: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, uids = bucket
    monkeypatch.setattr(dispatch, "FETCHES_IN_VAIN", 1)
    left = [SMALL[0]]

    def expire(handler: Handler) -> bool:
        left[0] -= 1
        if left[0] < 0:
            handler.answer(403, EXPIRED, Content_Type="application/xml")
        return left[0] < 0

    plan = plan_of(source, tmp_path / "out")
    with Interposed(aws.endpoint, to_object=whole_objects(expire)) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        first = run_cohort(plan)
    assert states(first) == dict(zip(uids, (State.DONE, State.FAILED, State.NOT_RUN), strict=True))
    reason = by_series(first)[uids[1]].reason
    assert "ExpiredToken" in reason
    assert "sign in again" in reason
    assert first.is_partial
    monkeypatch.setenv("AWS_ENDPOINT_URL", aws.endpoint)
    assert states(run_cohort(plan)) == dict(zip(uids, (State.UNCHANGED, State.DONE, State.DONE), strict=True))


def test_an_archive_that_asks_to_wait_is_waited_for_and_a_lost_object_costs_its_series(
    bucket: tuple[str, list[str]], aws: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, uids = bucket
    answers = [429, 503, 503, 429, 503, 503]
    """More than a request that fails is repeated."""

    def busy(handler: Handler) -> bool:
        status = answers.pop() if answers else 0
        if status:
            handler.answer(status, b"busy", Retry_After="1")
        return bool(status)

    def lose(plan: CohortPlan) -> None:
        name, _, key = source.removeprefix("s3://").partition("/")
        aws.client().delete_object(Bucket=name, Key=f"{key}/1/0003.dcm")
        note_settings(plan)

    monkeypatch.setattr(run_module, "note_settings", lose)
    plan = plan_of(source, tmp_path / "out")
    with Interposed(aws.endpoint, to_object=whole_objects(busy)) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL", between.url)
        first = run_cohort(plan)
    assert answers == []
    assert states(first) == dict(zip(uids, (State.DONE, State.FAILED, State.DONE), strict=True))
    assert "replaced or deleted after it had been listed" in by_series(first)[uids[1]].reason


def test_a_second_cohort_into_the_same_prefix_is_told_who_writes_and_changes_nothing(
    bucket: tuple[str, list[str]],
) -> None:
    source, _ = bucket
    out = f"{source}-out"
    with claimed(out):
        before = set(ObjectStore(out).sizes())
        with pytest.raises(CtbasisError, match="is being written by process"):
            run_cohort(plan_of(source, out))
        assert set(ObjectStore(out).sizes()) == before
