"""What of launching on Kubernetes can be told without a cluster; tests/e2e does the rest on one."""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.errors import CtbasisError
from components.svd.launch import LONGEST_NAME, application_name
from components.svd.launch_kubernetes import _merged

if TYPE_CHECKING:
    from collections.abc import Iterator


@given(st.text(max_size=120))
def test_an_application_name_is_a_dns_label_with_room_for_the_drivers_suffix(run: str) -> None:
    name = application_name(run)
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)
    assert len(name) <= LONGEST_NAME
    assert name == application_name(run)


@given(st.text(max_size=120), st.text(max_size=120))
def test_two_runs_never_share_an_application(one: str, other: str) -> None:
    assert (application_name(one) == application_name(other)) == (one == other)


def test_long_runs_that_differ_in_their_end_alone_are_told_apart() -> None:
    assert application_name("x" * 80 + "1") != application_name("x" * 80 + "2")


def test_a_kubeflow_run_id_is_in_the_name_as_it_is() -> None:
    run = str(uuid.uuid4())
    assert application_name(run) == f"ctbasis-svd-{run}"


def test_merged_streams_lose_nothing_and_keep_each_ones_order() -> None:
    merged = _merged(iter(range(0, 100, 2)), iter(range(1, 100, 2)))
    seen = [next(merged) for _ in range(100)]
    assert [item for item in seen if item % 2 == 0] == list(range(0, 100, 2))
    assert [item for item in seen if item % 2] == list(range(1, 100, 2))


def test_what_one_stream_raises_comes_out_of_the_merged_one() -> None:
    def refused() -> Iterator[int]:
        yield 1
        raise CtbasisError("watching was refused")

    merged = _merged(refused(), iter(()))
    assert next(merged) == 1
    with pytest.raises(CtbasisError, match="watching was refused"):
        next(merged)
