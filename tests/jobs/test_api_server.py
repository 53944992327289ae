"""Requests to the API server, and the meaning of its error responses."""

from __future__ import annotations

import threading
from contextlib import suppress

import pytest

from ctbasis.jobs.api_server import BROKEN, ApiError
from tests.jobs.api_server_stand_in import APPLICATIONS, PODS, ApiServerStandIn


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (ApiError(401, "Unauthorized"), True),
        (ApiError(403, "Forbidden"), True),
        (ApiError(409, "AlreadyExists"), True),
        (ApiError(422, "Invalid"), True),
        (ApiError(409, "Conflict"), False),
        (ApiError(410, "Expired"), False),
        (ApiError(429, "TooManyRequests"), False),
        (ApiError(500, "InternalError"), False),
        (ApiError(504, "Timeout"), False),
        (ApiError(403, "Forbidden", settling=True), False),
        (ApiError(0, "NotJSON"), False),
    ],
)
def test_an_error_that_a_retry_may_resolve_is_no_refusal(error: ApiError, *, refused: bool) -> None:
    assert error.refused == refused


def test_a_missing_object_is_none_and_an_unknown_path_is_an_error(server: ApiServerStandIn) -> None:
    api = server.api_server()
    assert api.find(f"{APPLICATIONS}/x") is None
    # The response of a server that has not loaded its CRDs yet.
    server.answer("GET", "sparkapplications", 404, "404 page not found", plain=True)
    with pytest.raises(ApiError, match="404"):
        api.find(f"{APPLICATIONS}/x")


def test_a_refusal_just_after_an_outage_is_not_final(server: ApiServerStandIn) -> None:
    api = server.api_server()
    server.answer("GET", "pods", 403, "not yet", times=2)
    with pytest.raises(ApiError) as plain:
        api.ask("GET", PODS)
    assert plain.value.refused
    server.stop()
    with pytest.raises(BROKEN, match="refused"):
        api.ask("GET", PODS)
    server.start()
    with pytest.raises(ApiError) as settling:
        api.ask("GET", PODS)
    assert not settling.value.refused


def test_lines_of_a_stream_arrive_as_they_are_written_and_end_when_it_is_stopped(server: ApiServerStandIn) -> None:
    api = server.api_server()
    server.write("p", "one")
    came: list[bytes] = []
    with api.stream(f"{PODS}/p/log", {"container": "spark-kubernetes-driver"}, silence=None) as stream:

        def read() -> None:
            with suppress(*BROKEN):
                came.extend(line.partition(b" ")[2] for line in stream)

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        server.until(lambda: came == [b"one\n"])
        server.write("p", "two")
        server.until(lambda: came == [b"one\n", b"two\n"])
        stream.stop()
        reader.join(10)
        assert not reader.is_alive()
