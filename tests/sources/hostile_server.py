"""A real HTTP server on the loopback interface that answers as a hostile or broken S3 server does."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

CONTENT = bytes(range(256)) * 12
ETAG = hashlib.md5(CONTENT).hexdigest()  # noqa: S324 - an ETag of S3 is an MD5
PACKED = gzip.compress(CONTENT, mtime=0)
PACKED_ETAG = hashlib.md5(PACKED).hexdigest()  # noqa: S324 - the same
FILES = {"a.dcm": CONTENT}


class Handler(BaseHTTPRequestHandler):
    """Answers as an S3 server does, with one object `x/a.dcm`; a case replaces its methods."""

    protocol_version = "HTTP/1.1"
    server: HostileServer

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        self.server.requests += 1
        with contextlib.suppress(OSError):
            if "list-type" in address.query:
                self.server.case.listing(self, {name: values[0] for name, values in parse_qs(address.query).items()})
            else:
                self.server.case.object(self, unquote(address.path))

    def do_HEAD(self) -> None:
        self.do_GET()

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, body: bytes, /, length: int | None = None, **headers: str) -> None:
        """Send a complete answer; `length` replaces the true Content-Length."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
        if length is not None:
            self.close_connection = True

    def error(self, status: int, code: str, more: str = "", **headers: str) -> None:
        body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>m</Message>{more}</Error>"
        self.answer(status, body.encode(), **headers)

    def drip(self, data: bytes, seconds: float = 0.2) -> None:
        """Send a byte at a time until the client gives up."""
        for position in count():
            self.wfile.write(data[position % len(data) : position % len(data) + 1])
            self.wfile.flush()
            time.sleep(seconds)
            if self.server.closing.is_set():
                return


def entry(key: str, size: object = len(CONTENT), etag: str = ETAG) -> str:
    return f"<Contents><Key>{quote(key)}</Key><Size>{size}</Size><ETag>&quot;{etag}&quot;</ETag></Contents>"


def page(*contents: str, token: str = "") -> bytes:
    more = f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>" if token else ""
    body = f"<Name>b</Name><EncodingType>url</EncodingType>{more}{''.join(contents)}"
    return f"<?xml version='1.0'?><ListBucketResult>{body}</ListBucketResult>".encode()


def list_one(handler: Handler, _query: dict[str, str]) -> None:
    handler.answer(200, page(entry("x/a.dcm")))


def give_content(handler: Handler, _path: str) -> None:
    handler.answer(200, CONTENT, ETag=f'"{ETAG}"')


@dataclass(frozen=True)
class Case:
    """What the server does and what the fetch must end in: the files, or words of its refusal.

    Attributes:
        files: Content of the files by name; empty if the fetch must be refused.
        refusal: Words that the refusal contains.
    """

    listing: Callable[[Handler, dict[str, str]], None] = list_one
    object: Callable[[Handler, str], None] = give_content
    files: dict[str, bytes] = field(default_factory=dict)
    refusal: tuple[str, ...] = ()


class HostileServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, case: Case) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.case = case
        self.requests = 0
        self.closing = threading.Event()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve_forever)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Say nothing of connections that the client has closed."""


def listed(body: bytes, status: int = 200, **headers: str) -> Callable[[Handler, dict[str, str]], None]:
    return lambda handler, _query: handler.answer(status, body, **headers)


def given(body: bytes, status: int = 200, length: int | None = None, **headers: str) -> Callable[[Handler, str], None]:
    return lambda handler, _path: handler.answer(status, body, length, **headers)


def failing(status: int, code: str, more: str = "", **headers: str) -> Callable[[Handler, Any], None]:
    return lambda handler, _: handler.error(status, code, more, **headers)


def changed_midway(handler: Handler, _path: str) -> None:
    """Answer with another object's content, and claim its ETag."""
    other = bytes(len(CONTENT))
    handler.answer(200, other, ETag='"0123456789abcdef0123456789abcdef"')


def refuse_condition(handler: Handler, _path: str) -> None:
    assert handler.headers["If-Match"] == f'"{ETAG}"'
    handler.error(412, "PreconditionFailed")


def right_at_the_third_try(handler: Handler, path: str) -> None:
    if handler.server.requests < 5:
        handler.error(503, "SlowDown")
    else:
        give_content(handler, path)


def endless_body(handler: Handler, _: object) -> None:
    """Send chunks without an end."""
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    while not handler.server.closing.is_set():
        handler.wfile.write(b"10000\r\n" + bytes(0x10000) + b"\r\n")


def drip_content(handler: Handler, _path: str) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(CONTENT)))
    handler.end_headers()
    handler.drip(CONTENT)


def drip_listing(handler: Handler, _query: dict[str, str]) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    handler.drip(b" ")


def drip_header(handler: Handler, _: object) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
    handler.drip(b"a")


def drip_status_line(handler: Handler, _: object) -> None:
    handler.wfile.write(b"HTTP/1.1 200 ")
    handler.drip(b"O")


def drip_chunk_sizes(handler: Handler, _path: str) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    handler.drip(b"1\r\n\x00\r\n")


def drip_error(handler: Handler, _: object) -> None:
    handler.wfile.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 100000\r\n\r\n")
    handler.drip(b" ")


def new_token_each_time(handler: Handler, _query: dict[str, str]) -> None:
    handler.answer(200, page(token=f"token-{handler.server.requests}"))


def new_keys_each_time(handler: Handler, _query: dict[str, str]) -> None:
    number = handler.server.requests
    handler.answer(200, page(*(entry(f"x/{number}-{n}", 0) for n in range(100)), token=f"token-{number}"))


def two_pages(handler: Handler, query: dict[str, str]) -> None:
    if "continuation-token" in query:
        handler.answer(200, page(entry("x/b.dcm")))
    else:
        handler.answer(200, page(entry("x/a.dcm"), token="next"))  # noqa: S106 - a continuation token


def cut_connection(handler: Handler, _: object) -> None:
    handler.close_connection = True


def many_headers(handler: Handler, _: object) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: a\r\n" % n for n in range(5000)) + b"\r\n")
