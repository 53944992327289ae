"""The template, and the application of a run: created once, adopted, replaced, deleted."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.spark.application import RUN_LABEL, SparkApplication
from ctbasis.spark.kubernetes.applications import Applications, template
from ctbasis.spark.kubernetes.outage import ApplicationStaysError
from ctbasis.spark.kubernetes.quota import QuotaFullError
from tests.spark.kubernetes.api_server_stand_in import APPLICATIONS, ApiServerStandIn
from tests.spark.kubernetes.conftest import NAME

if TYPE_CHECKING:
    from ctbasis.spark.kubernetes.timeouts import Timeouts


@pytest.fixture
def own(server: ApiServerStandIn, timeouts: Timeouts) -> Applications:
    return Applications(server.api_server(), timeouts)


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
    used = template(server.api_server(), timeouts).to_manifest()
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
    assert template(server.api_server(), timeouts) == SparkApplication.read()
    assert "template sparkapplication.yaml of the image" in capsys.readouterr().err


def test_a_template_with_an_unknown_field_is_refused_by_name(server: ApiServerStandIn, timeouts: Timeouts) -> None:
    put_template(server, drivr={})
    with pytest.raises(CtbasisError, match=r"SparkApplication ctbasis-svd: .*spec\.drivr"):
        template(server.api_server(), timeouts)


def test_an_application_is_created_as_it_was_rendered(
    server: ApiServerStandIn, own: Applications, manifest: dict[str, Any]
) -> None:
    created = own.create_or_adopt(manifest)
    assert created["spec"] == manifest["spec"]
    assert created["metadata"]["resourceVersion"]
    assert [method for method, _ in server.requests] == ["POST"]


@pytest.mark.parametrize(
    "state", ["", "SUBMITTED", "RUNNING", "PENDING_RERUN", "SUBMISSION_FAILED", "FAILING", "COMPLETED"]
)
def test_a_retry_adopts_the_application_of_the_first_attempt(
    server: ApiServerStandIn, own: Applications, manifest: dict[str, Any], state: str
) -> None:
    first = own.create_or_adopt(manifest)
    if state:
        server.state(NAME, state)
    assert own.create_or_adopt(manifest)["metadata"]["uid"] == first["metadata"]["uid"]
    assert "DELETE" not in {method for method, _ in server.requests}


@pytest.mark.parametrize("why", ["failed", "other arguments", "being deleted"])
def test_an_application_that_a_retry_cannot_use_is_deleted_and_replaced(
    server: ApiServerStandIn,
    own: Applications,
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
    own = Applications(server.api_server(), replace(timeouts, deletion=0))
    own.create_or_adopt(manifest)
    server.state(NAME, "FAILED")
    server.holds_deletions = True
    with pytest.raises(CtbasisError, match="still exists"):
        own.create_or_adopt(manifest)


def test_another_runs_application_of_the_same_name_is_neither_adopted_nor_deleted(
    server: ApiServerStandIn, own: Applications, manifest: dict[str, Any]
) -> None:
    own.create_or_adopt(manifest | {"metadata": manifest["metadata"] | {"labels": {RUN_LABEL: "another"}}})
    with pytest.raises(CtbasisError, match="exists and belongs to another run"):
        own.create_or_adopt(manifest)
    own.discard(manifest)
    assert server.names(APPLICATIONS) == [NAME]


def test_an_application_whose_creation_got_no_response_is_found(
    server: ApiServerStandIn, own: Applications, manifest: dict[str, Any]
) -> None:
    server.put(APPLICATIONS, dict(manifest))  # the request had succeeded before the connection broke
    server.answer("POST", "sparkapplications", 500, "the connection broke")
    assert own.create_or_adopt(manifest)["metadata"]["name"] == NAME
    assert server.names(APPLICATIONS) == [NAME]


def test_creation_is_repeated_while_the_server_is_unavailable_or_busy(
    server: ApiServerStandIn, own: Applications, manifest: dict[str, Any]
) -> None:
    server.answer("POST", "sparkapplications", 503, times=1)
    server.answer("POST", "sparkapplications", 429, times=1)
    conflict = 'Operation cannot be fulfilled on resourcequotas "q": the object has been modified'
    server.answer("POST", "sparkapplications", 409, conflict, reason="Conflict", times=1)
    assert own.create_or_adopt(manifest)["metadata"]["name"] == NAME


def test_a_long_outage_is_an_error_that_leaves_the_application(
    server: ApiServerStandIn, timeouts: Timeouts, manifest: dict[str, Any]
) -> None:
    own = Applications(server.api_server(), replace(timeouts, api_server=0.3))
    server.stop()
    with pytest.raises(ApplicationStaysError, match=r"creating the SparkApplication .* was unavailable"):
        own.create_or_adopt(manifest)


@pytest.mark.parametrize(
    ("status", "message", "expected"),
    [
        (403, 'User "x" cannot create resource "sparkapplications"', "manifests/base"),
        (404, "404 page not found", "CRD is not installed"),
        (422, "spec.type: Unsupported value", "not valid"),
        (403, 'admission webhook "p" denied the request: no latest tags', "policy"),
        (403, "exceeded quota: q, requested: pods=2, used: pods=0, limited: pods=1", "ResourceQuota"),
    ],
)
def test_a_refused_creation_gives_the_reason_and_is_not_repeated(
    server: ApiServerStandIn, own: Applications, manifest: dict[str, Any], status: int, message: str, expected: str
) -> None:
    server.answer("POST", "sparkapplications", status, message, times=9, plain="page not found" in message)
    with pytest.raises(CtbasisError, match=rf"was refused: {status}(?s:.)*{expected}"):
        own.create_or_adopt(manifest)
    assert len(server.requests) == 1


def test_a_full_quota_of_applications_is_not_a_failure(
    server: ApiServerStandIn, own: Applications, manifest: dict[str, Any]
) -> None:
    full = "exceeded quota: q, requested: count/s=1, used: count/s=2, limited: count/s=2"
    server.answer("POST", "sparkapplications", 403, full)
    with pytest.raises(QuotaFullError, match="exceeded quota"):
        own.create_or_adopt(manifest)


def test_discarding_deletes_the_runs_application_and_its_pods_first(
    server: ApiServerStandIn, own: Applications, manifest: dict[str, Any]
) -> None:
    own.create_or_adopt(manifest)
    own.discard(manifest)
    assert server.names(APPLICATIONS) == []
    own.discard(manifest)  # nothing is left, and nothing is logged


def test_an_application_that_appears_late_is_discarded_too(
    server: ApiServerStandIn, own: Applications, manifest: dict[str, Any]
) -> None:
    threading.Timer(0.7, lambda: server.put(APPLICATIONS, dict(manifest))).start()
    own.discard(manifest, appearing=10)
    assert server.names(APPLICATIONS) == []


def test_an_application_is_discarded_after_an_outage(
    server: ApiServerStandIn, own: Applications, manifest: dict[str, Any]
) -> None:
    own.create_or_adopt(manifest)
    server.stop()
    threading.Timer(1, server.start).start()
    own.discard(manifest)
    assert server.names(APPLICATIONS) == []


def test_an_application_that_could_not_be_deleted_is_logged_with_the_command(
    server: ApiServerStandIn, timeouts: Timeouts, manifest: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    own = Applications(server.api_server(), replace(timeouts, stopping=0.3))
    own.create_or_adopt(manifest)
    server.stop()
    own.discard(manifest)
    assert f"kubectl -n runs delete sparkapplication {NAME}" in capsys.readouterr().err


def test_a_missing_right_to_delete_causes_no_wait(
    server: ApiServerStandIn, own: Applications, manifest: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    own.create_or_adopt(manifest)
    server.answer("DELETE", NAME, 403, "cannot delete", times=9)
    before = len(server.requests)
    own.discard(manifest)
    assert len(server.requests) == before + 2
    assert "could not be deleted (403 Forbidden: cannot delete)" in capsys.readouterr().err
