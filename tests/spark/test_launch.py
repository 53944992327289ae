"""The name of a run's application."""

from __future__ import annotations

import re
import uuid

from hypothesis import given
from hypothesis import strategies as st

from ctbasis.jobs.job import TEMPLATE_NAME
from ctbasis.jobs.spark_application import SparkApplication
from ctbasis.spark.launch import application_name


@given(st.text(max_size=120))
def test_an_application_name_is_a_dns_label_with_room_for_the_drivers_suffix(run: str) -> None:
    name = application_name(run)
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name)
    assert len(name) <= SparkApplication.longest_name
    assert name == application_name(run)
    assert name != TEMPLATE_NAME


@given(st.text(max_size=120), st.text(max_size=120))
def test_two_runs_never_share_an_application(one: str, other: str) -> None:
    assert (application_name(one) == application_name(other)) == (one == other)


def test_a_run_without_a_name_does_not_get_the_name_of_the_template() -> None:
    assert [application_name(run) == TEMPLATE_NAME for run in ("", "-", "---", "é", " ")] == [False] * 5


def test_long_names_that_differ_only_at_the_end_stay_different() -> None:
    assert application_name("x" * 80 + "1") != application_name("x" * 80 + "2")


def test_a_kubeflow_run_id_is_in_the_name_unchanged() -> None:
    run = str(uuid.uuid4())
    assert application_name(run) == f"ctbasis-svd-{run}"
