"""The template, and the application of a run: created once, adopted, replaced, deleted."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.jobs.job import RUN_LABEL
from ctbasis.jobs.outage import JobStaysError
from ctbasis.jobs.quota import QuotaFullError
from ctbasis.jobs.resources import Jobs, template
from ctbasis.jobs.spark_application import SparkApplication
from tests.jobs.api_server_stand_in import APPLICATIONS, PODS, ApiServerStandIn
from tests.jobs.conftest import NAME
from tests.jobs.made_pods import ended, running

if TYPE_CHECKING:
    from ctbasis.jobs.timeouts import Timeouts


@pytest.fixture
def own(server: ApiServerStandIn, timeouts: Timeouts) -> Jobs:
    return Jobs(server.api_server(), SparkApplication, timeouts)


def put_template(server: ApiServerStandIn, **spec: Any) -> dict[str, Any]:
    manifest = SparkApplication.read().to_manifest()
    manifest["spec"] |= {"suspend": True, **spec}
    manifest["metadata"] |= {
        "namespace": "runs",
        "labels": {"kueue.x-k8s.io/queue-name": "ct"},
        "annotations": {"argocd.argoproj.io/tracking-id": "x"},
        "creationTimestamp": "2026-01-01T00:00:00Z",
        "generation": 3,
        "managedFields": [{"manager": "kubectl"}],
    }
    manifest["status"] = {"applicationState": {"state": "SUSPENDED"}}
    return server.put(APPLICATIONS, manifest)


def test_the_template_in_the_namespace_is_used_without_fields_that_the_cluster_added(
    server: ApiServerStandIn, timeouts: Timeouts
) -> None:
    put_template(server, image="registry.example/ours:1", batchScheduler="yunikorn")
    used = template(SparkApplication, server.api_server(), timeouts).to_manifest()
    expected = SparkApplication.read().to_manifest()
    assert used["metadata"] == {"name": "ctbasis-svd", "labels": {"kueue.x-k8s.io/queue-name": "ct"}}
    assert used["spec"] == expected["spec"] | {"image": "registry.example/ours:1", "batchScheduler": "yunikorn"}
    assert set(used) == {"apiVersion", "kind", "metadata", "spec"}


@pytest.mark.parametrize("why", ["absent", "not suspended", "forbidden"])
def test_without_a_template_in_the_namespace_the_one_in_the_image_is_used_and_logged(
    server: ApiServerStandIn, timeouts: Timeouts, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if why == "not suspended":
        put_template(server, suspend=False)
    if why == "forbidden":
        server.answer("GET", "ctbasis-svd", 403, "may not get")
    assert template(SparkApplication, server.api_server(), timeouts) == SparkApplication.read()
    assert "template sparkapplication.yaml of the image" in capsys.readouterr().err


def test_a_template_with_an_unknown_field_is_refused_by_name(server: ApiServerStandIn, timeouts: Timeouts) -> None:
    put_template(server, drivr={})
    with pytest.raises(CtbasisError, match=r"SparkApplication ctbasis-svd: .*spec\.drivr"):
        template(SparkApplication, server.api_server(), timeouts)


def test_an_application_is_created_as_it_was_rendered(
    server: ApiServerStandIn, own: Jobs, manifest: dict[str, Any]
) -> None:
    created = own.create_or_adopt(manifest)
    assert created["spec"] == manifest["spec"]
    assert created["metadata"]["resourceVersion"]
    assert [method for method, _ in server.requests] == ["POST"]


@pytest.mark.parametrize(
    "state", ["", "SUBMITTED", "RUNNING", "PENDING_RERUN", "SUBMISSION_FAILED", "FAILING", "COMPLETED"]
)
def test_a_retry_adopts_the_application_of_the_first_attempt(
    server: ApiServerStandIn, own: Jobs, manifest: dict[str, Any], state: str
) -> None:
    first = own.create_or_adopt(manifest)
    if state:
        server.state(NAME, state)
    assert own.create_or_adopt(manifest)["metadata"]["uid"] == first["metadata"]["uid"]
    assert "DELETE" not in {method for method, _ in server.requests}


@pytest.mark.parametrize("why", ["failed", "other arguments", "being deleted"])
def test_an_application_that_a_retry_cannot_use_is_deleted_and_replaced(
    server: ApiServerStandIn,
    own: Jobs,
    manifest: dict[str, Any],
    why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    first = own.create_or_adopt(manifest)
    if why == "failed":
        server.state(NAME, "FAILED")
    elif why == "other arguments":
        manifest["spec"]["arguments"] = ["--rank", "6"]
    else:
        server.put(
            APPLICATIONS, first | {"metadata": first["metadata"] | {"deletionTimestamp": "2026-01-01T00:00:00Z"}}
        )
    server.holds_deletions = True  # as the foreground deletion does, until the pods are gone

    def pods_end() -> None:
        server.until(lambda: ("DELETE", f"{APPLICATIONS}/{NAME}") in server.requests)
        time.sleep(0.3)
        server.remove(APPLICATIONS, NAME)

    threading.Thread(target=pods_end, daemon=True).start()
    second = own.create_or_adopt(manifest)
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    assert "replacing" in capsys.readouterr().err
    assert server.names(APPLICATIONS) == [NAME]


def test_an_application_that_cannot_be_deleted_is_an_error(
    server: ApiServerStandIn, timeouts: Timeouts, manifest: dict[str, Any]
) -> None:
    own = Jobs(server.api_server(), SparkApplication, replace(timeouts, deletion=0))
    own.create_or_adopt(manifest)
    server.state(NAME, "FAILED")
    server.holds_deletions = True
    with pytest.raises(CtbasisError, match="still exists"):
        own.create_or_adopt(manifest)


def test_another_runs_application_of_the_same_name_is_neither_adopted_nor_deleted(
    server: ApiServerStandIn, own: Jobs, manifest: dict[str, Any]
) -> None:
    own.create_or_adopt(manifest | {"metadata": manifest["metadata"] | {"labels": {RUN_LABEL: "another"}}})
    with pytest.raises(CtbasisError, match="exists and belongs to another run"):
        own.create_or_adopt(manifest)
    own.discard(manifest)
    assert server.names(APPLICATIONS) == [NAME]


def test_an_application_whose_creation_got_no_response_is_found(
    server: ApiServerStandIn, own: Jobs, manifest: dict[str, Any]
) -> None:
    server.put(APPLICATIONS, dict(manifest))  # the request had succeeded before the connection broke
    server.answer("POST", "sparkapplications", 500, "the connection broke")
    assert own.create_or_adopt(manifest)["metadata"]["name"] == NAME
    assert server.names(APPLICATIONS) == [NAME]


def test_creation_is_repeated_while_the_server_is_unavailable_or_busy(
    server: ApiServerStandIn, own: Jobs, manifest: dict[str, Any]
) -> None:
    server.answer("POST", "sparkapplications", 503, times=1)
    server.answer("POST", "sparkapplications", 429, times=1)
    conflict = 'Operation cannot be fulfilled on resourcequotas "q": the object has been modified'
    server.answer("POST", "sparkapplications", 409, conflict, reason="Conflict", times=1)
    assert own.create_or_adopt(manifest)["metadata"]["name"] == NAME


def test_a_long_outage_is_an_error_that_leaves_the_application(
    server: ApiServerStandIn, timeouts: Timeouts, manifest: dict[str, Any]
) -> None:
    own = Jobs(server.api_server(), SparkApplication, replace(timeouts, api_server=0.3))
    server.stop()
    with pytest.raises(JobStaysError, match=r"creating the SparkApplication .* was unavailable"):
        own.create_or_adopt(manifest)


def test_an_operator_of_another_version_is_named_with_the_versions_that_it_serves(
    server: ApiServerStandIn, own: Jobs, manifest: dict[str, Any]
) -> None:
    server.served["sparkoperator.k8s.io"] = ["v1beta1", "v1alpha1"]
    server.answer("POST", "sparkapplications", 404, "404 page not found", plain=True)
    with pytest.raises(CtbasisError) as caught:
        own.create_or_adopt(manifest)
    assert caught.value.found.endswith("SparkApplication in sparkoperator.k8s.io/v1beta1, v1alpha1")
    assert "sparkoperator.k8s.io/v1beta2" in caught.value.expected
    assert "helm install spark-operator" in caught.value.remedy


def test_the_template_of_an_operator_that_is_absent_names_the_command_that_installs_it(
    server: ApiServerStandIn, timeouts: Timeouts
) -> None:
    server.answer("GET", "sparkapplications/", 404, "404 page not found", plain=True)
    with pytest.raises(CtbasisError, match="helm install spark-operator"):
        template(SparkApplication, server.api_server(), timeouts)


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (403, 'User "x" cannot create resource "sparkapplications"', "the RoleBinding ctbasis-launch"),
        (
            403,
            'User "system:serviceaccount:team-ct:default-editor" cannot create resource "sparkapplications"',
            "--role=ctbasis-launch --serviceaccount=team-ct:default-editor; the Role",
        ),
        (404, "404 page not found", "likely cause: the Spark operator is not installed"),
        (422, "spec.type: Unsupported value", "not valid"),
        (403, 'admission webhook "p" denied the request: no latest tags', "policy"),
        (403, "exceeded quota: q, requested: pods=2, used: pods=0, limited: pods=1", "ResourceQuota"),
    ],
)
def test_a_refused_creation_gives_the_reason_and_is_not_repeated(
    server: ApiServerStandIn, own: Jobs, manifest: dict[str, Any], status: int, message: str, expected: str
) -> None:
    server.answer("POST", "sparkapplications", status, message, times=9, plain="page not found" in message)
    with pytest.raises(CtbasisError, match=rf"was refused: {status}(?s:.)*{expected}"):
        own.create_or_adopt(manifest)
    assert [method for method, _ in server.requests].count("POST") == 1


def test_a_full_quota_of_applications_is_not_a_failure(
    server: ApiServerStandIn, own: Jobs, manifest: dict[str, Any]
) -> None:
    full = "exceeded quota: q, requested: count/s=1, used: count/s=2, limited: count/s=2"
    server.answer("POST", "sparkapplications", 403, full)
    with pytest.raises(QuotaFullError, match="exceeded quota"):
        own.create_or_adopt(manifest)


def test_discarding_deletes_the_runs_application_and_its_pods_first(
    server: ApiServerStandIn, own: Jobs, manifest: dict[str, Any]
) -> None:
    own.create_or_adopt(manifest)
    own.discard(manifest)
    assert server.names(APPLICATIONS) == []
    own.discard(manifest)  # nothing is left, and nothing is logged


def test_an_application_that_appears_late_is_discarded_too(
    server: ApiServerStandIn, own: Jobs, manifest: dict[str, Any]
) -> None:
    threading.Timer(0.7, lambda: server.put(APPLICATIONS, dict(manifest))).start()
    own.discard(manifest, appearing=10)
    assert server.names(APPLICATIONS) == []


def test_an_application_is_discarded_after_an_outage(
    server: ApiServerStandIn, own: Jobs, manifest: dict[str, Any]
) -> None:
    own.create_or_adopt(manifest)
    server.stop()
    threading.Timer(1, server.start).start()
    own.discard(manifest)
    assert server.names(APPLICATIONS) == []


def test_an_application_that_could_not_be_deleted_is_logged_with_the_command(
    server: ApiServerStandIn, timeouts: Timeouts, manifest: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    own = Jobs(server.api_server(), SparkApplication, replace(timeouts, stopping=0.3))
    own.create_or_adopt(manifest)
    server.stop()
    own.discard(manifest)
    assert f"kubectl -n runs delete sparkapplication {NAME}" in capsys.readouterr().err


def test_a_missing_right_to_delete_causes_no_wait(
    server: ApiServerStandIn, own: Jobs, manifest: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    own.create_or_adopt(manifest)
    server.answer("DELETE", NAME, 403, "cannot delete", times=9)
    before = len(server.requests)
    own.discard(manifest)
    assert len(server.requests) == before + 2
    assert "could not be deleted (403 Forbidden: cannot delete)" in capsys.readouterr().err


@pytest.mark.parametrize("state", ["", "SUBMITTED", "RUNNING", "PENDING_RERUN", "SUBMISSION_FAILED", "FAILING"])
def test_the_application_of_a_run_that_ended_is_deleted_and_its_pods_are_waited_for(
    server: ApiServerStandIn, own: Jobs, manifest: dict[str, Any], state: str
) -> None:
    own.create_or_adopt(manifest)
    if state:
        server.state(NAME, state)
    server.put(PODS, running())
    gone: list[float] = []

    def pods_end() -> None:
        server.until(lambda: NAME not in server.names(APPLICATIONS))
        time.sleep(0.3)
        gone.append(time.monotonic())
        server.remove(PODS, f"{NAME}-driver")

    threading.Thread(target=pods_end, daemon=True).start()
    assert own.end(NAME)
    assert gone
    assert time.monotonic() > gone[0]
    assert server.names(APPLICATIONS) == server.names(PODS) == []


@pytest.mark.parametrize("state", ["COMPLETED", "FAILED"])
def test_an_application_that_has_ended_stays_for_inspection(
    server: ApiServerStandIn, own: Jobs, manifest: dict[str, Any], state: str
) -> None:
    own.create_or_adopt(manifest)
    server.state(NAME, state)
    assert not own.end(NAME)
    assert server.names(APPLICATIONS) == [NAME]


def test_pods_that_have_ended_are_not_waited_for(server: ApiServerStandIn, own: Jobs, manifest: dict[str, Any]) -> None:
    own.create_or_adopt(manifest)
    server.put(PODS, ended(0))
    assert own.end(NAME)


def test_the_application_of_another_run_is_not_ended(
    server: ApiServerStandIn, own: Jobs, manifest: dict[str, Any]
) -> None:
    own.create_or_adopt(manifest | {"metadata": manifest["metadata"] | {"labels": {RUN_LABEL: "another"}}})
    assert not own.end(NAME)
    assert server.names(APPLICATIONS) == [NAME]


@pytest.mark.parametrize(("status", "message"), [(403, "cannot get sparkapplications"), (404, "404 page not found")])
def test_without_the_operator_or_a_right_there_is_no_application_to_end(
    server: ApiServerStandIn, own: Jobs, status: int, message: str
) -> None:
    server.answer("GET", "sparkapplications", status, message, times=9, plain="page not found" in message)
    assert not own.end(NAME)
    assert len(server.requests) == 1


@pytest.mark.parametrize("remains", ["application", "pod"])
def test_what_still_runs_after_the_deletion_is_an_error(
    server: ApiServerStandIn, timeouts: Timeouts, manifest: dict[str, Any], remains: str
) -> None:
    own = Jobs(server.api_server(), SparkApplication, replace(timeouts, deletion=0))
    own.create_or_adopt(manifest)
    server.holds_deletions = remains == "application"
    server.put(PODS, running())
    with pytest.raises(CtbasisError, match="still exists" if remains == "application" else "still run .*-driver"):
        own.end(NAME)
