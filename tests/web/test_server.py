"""The HTTP server: its token, its limits, and what it answers to requests that break off or lie."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import pytest
import requests
from fastapi import APIRouter, Request

from ctbasis.errors import CtbasisError
from ctbasis.web import server as server_module
from ctbasis.web.application import application
from ctbasis.web.body import Limits, whole
from ctbasis.web.metrics import Metrics
from ctbasis.web.server import HttpServer
from ctbasis.web.token import TOKEN, token_of_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Start = Callable[..., HttpServer]

SECRET = "0123456789abcdef0123456789abcdef"  # noqa: S105 - an invented token
LIMIT = 100_000


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Return a function that starts a server with a route that reads a body, and one that fails."""
    monkeypatch.setattr("ctbasis.web.body.DRAIN_SECONDS", 0.5)
    with ExitStack() as stack:

        def started(token: str = "", *, seconds: float = 5.0, **settings: Any) -> HttpServer:
            router = APIRouter()

            @router.post("/length")
            async def length(request: Request) -> int:
                return len(await whole(request, Limits(LIMIT, seconds)))

            @router.get("/user-error")
            def user_error() -> None:
                raise CtbasisError("no basis", expected="a basis", remedy="name one")

            @router.get("/defect/{name}")
            def defect(name: str) -> None:
                raise RuntimeError(f"Patient^{name}")

            made = application("test", routers=[router], token=token, metrics=Metrics(), ready=lambda: not token)
            return stack.enter_context(HttpServer(made, host="127.0.0.1", port=0, **settings))

        yield started


def ask(server: HttpServer, method: str, path: str, **named: Any) -> requests.Response:
    return requests.request(method, f"http://127.0.0.1:{server.port}{path}", timeout=20, proxies={"http": ""}, **named)


def exchange(server: HttpServer, *pieces: bytes, end: bool = False, pause: float = 0.0) -> bytes:
    """Send bytes on a connection, and return what comes until the server closes it."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        # A server that has answered early closes the connection, and resets it if unread bytes wait.
        with suppress(OSError):
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            if end:
                connection.shutdown(socket.SHUT_WR)
        received = b""
        with suppress(ConnectionResetError):
            while piece := connection.recv(1 << 16):
                received += piece
        return received


def post(length: int | str, *fields: str) -> bytes:
    lines = ["POST /length HTTP/1.1", "Host: x", "Connection: close", *fields]
    if length != "":
        lines.append(f"Content-Length: {length}")
    return "\r\n".join([*lines, "", ""]).encode()


def test_a_route_needs_the_token_and_a_probe_does_not(start: Start) -> None:
    server = start(SECRET)
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {SECRET}"}):
        answer = ask(server, "POST", "/length", data=b"x" * 1000, headers=headers)
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert ask(server, "POST", "/length", data=b"x" * 7, headers={"Authorization": f"Bearer {SECRET}"}).json() == 7
    assert ask(server, "GET", "/health/live").text == "live"
    assert ask(server, "GET", "/health/ready").status_code == 503
    assert 'route="/length",status="401"} 3.0' in ask(server, "GET", "/metrics").text


def test_the_openapi_document_names_the_routes_and_the_token(start: Start) -> None:
    document = ask(start(SECRET), "GET", "/openapi.json").json()
    assert document["paths"]["/length"]["post"]["security"] == [{"HTTPBearer": []}]
    assert "security" not in document["paths"]["/health/live"]["get"]


@pytest.mark.parametrize("token", ["tiny", "with a space in between", "with\ncontrol characters in it"])
def test_a_token_that_protects_nothing_or_fits_no_header_is_refused(
    token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, token)
    with pytest.raises(CtbasisError, match=TOKEN) as caught:
        token_of_environment()
    assert token not in str(caught.value)


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_that_is_too_large_is_refused_and_the_answer_arrives(start: Start, chunked: bool) -> None:
    server = start()
    body: Any = iter([b"x" * 1000] * 200) if chunked else b"x" * 200_000
    answer = ask(server, "POST", "/length", data=body)
    assert (answer.status_code, answer.json()) == (413, {"error": f"the body has more than {LIMIT} bytes"})
    assert ask(server, "POST", "/length", data=b"x" * LIMIT).json() == LIMIT


def test_a_body_that_is_far_too_large_is_not_read_to_its_end(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctbasis.web.body.DRAIN_BYTES", 1 << 20)
    server = start()
    received = exchange(server, post(1 << 40), b"x" * 2_000_000)
    assert received.startswith(b"HTTP/1.1 413")
    assert b"connection: close" in received.lower()


def test_a_client_that_waits_for_100_continue_sends_no_body_in_vain(start: Start) -> None:
    received = exchange(start(SECRET), post(1000, "Expect: 100-continue"))
    assert received.startswith(b"HTTP/1.1 401")


def test_bodies_that_lie_about_their_length_cost_only_themselves(start: Start) -> None:
    server = start()
    # Shorter: the connection ends within the body.
    exchange(server, post(1000), b"x" * 10, end=True)
    # Longer: the rest is taken for another request, which it is not.
    received = exchange(server, post(3, "Connection: keep-alive"), b"x" * 10)
    assert received.startswith(b"HTTP/1.1 200")
    for wrong in ("-1", "3, 4", "1e3", "9" * 30 + "x"):
        assert exchange(server, post(wrong), b"xxx").startswith(b"HTTP/1.1 400")
    # Two statements about the length: the chunks count (RFC 9112, section 6.3).
    received = exchange(server, post(3, "Transfer-Encoding: chunked"), b"0\r\n\r\n")
    assert received.endswith(b"\r\n\r\n0")
    assert ask(server, "POST", "/length", data=b"xyz").json() == 3


def test_a_chunked_body_that_is_no_chunked_body_is_refused(start: Start) -> None:
    server = start()
    exchange(server, post("", "Transfer-Encoding: chunked"), b"zz\r\nnonsense", end=True)
    assert ask(server, "POST", "/length", data=b"xyz").json() == 3


def test_a_body_that_stalls_or_drips_is_given_up(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start(seconds=0.3)
    assert exchange(server, post(1000), b"x").startswith(b"HTTP/1.1 408")
    monkeypatch.setattr("ctbasis.web.body.LEAST_RATE", 1000)
    received = exchange(server, post(1000), *[b"x"] * 20, pause=0.05)
    assert received.startswith(b"HTTP/1.1 408")


def test_connections_without_a_request_are_closed(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HEAD_SECONDS", 0.3)
    server = start()
    begin = time.monotonic()
    assert exchange(server) == b""
    assert exchange(server, b"GET / HTTP/1.1\r\nHost: ") == b""
    # Also after a first request.
    kept = exchange(server, b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n", b"GET /he")
    assert kept.count(b"HTTP/1.1") == 1
    assert time.monotonic() - begin < 5


def test_connections_beyond_the_limit_are_told(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "MOST_CONNECTIONS", 3)
    server = start()
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        time.sleep(0.2)
        assert ask(server, "GET", "/health/live").status_code == 503
    time.sleep(0.2)
    assert ask(server, "GET", "/health/live").status_code == 200


def test_an_error_of_the_user_has_its_parts_and_a_defect_shows_no_text(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    server = start()
    answer = ask(server, "GET", "/user-error")
    assert answer.status_code == 422
    assert answer.json() == {"error": "no basis", "expected": "a basis", "remedy": "name one"}
    answer = ask(server, "GET", "/defect/Doe")
    assert (answer.status_code, answer.json()) == (500, {"error": "internal error (RuntimeError)"})
    assert ask(server, "GET", "/nowhere").status_code == 404
    log = capfd.readouterr().err
    assert "http: GET /defect/{name}: RuntimeError" in log
    assert "Doe" not in log
    assert "Traceback" not in log
    metrics = ask(server, "GET", "/metrics").text
    assert "Doe" not in metrics
    assert 'route="none",status="404"' in metrics


def test_a_port_in_use_is_told(start: Start) -> None:
    port = start().port
    with pytest.raises(CtbasisError, match=f"port {port} of 127"):
        HttpServer(lambda: None, host="127.0.0.1", port=port)  # type: ignore[arg-type]


def test_a_request_in_work_ends_before_the_server_does() -> None:
    with ExitStack() as stack:
        router = APIRouter()
        begun = threading.Event()

        @router.get("/slow")
        def slow() -> str:
            begun.set()
            time.sleep(0.5)
            return "done"

        made = application("test", routers=[router], token="", metrics=Metrics())
        server = stack.enter_context(HttpServer(made, host="127.0.0.1", port=0))
        answers: list[str] = []
        thread = threading.Thread(target=lambda: answers.append(ask(server, "GET", "/slow").json()))
        thread.start()
        assert begun.wait(10)
    thread.join()
    assert answers == ["done"]


def test_a_connection_can_be_encrypted(start: Start, certificates: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificates / "node.crt", certificates / "node.key")
    server = start(context=context)
    url = f"https://localhost:{server.port}/health/live"
    authority = str(certificates / "node.crt")
    assert requests.get(url, timeout=20, verify=authority, proxies={"https": ""}).text == "live"
    with pytest.raises(requests.exceptions.ConnectionError):
        ask(server, "GET", "/health/live")
