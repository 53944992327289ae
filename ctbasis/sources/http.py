"""HTTP sessions of the sources that are not S3: each answer has a least rate and a largest size, and errors are told.

Google's and Azure's libraries take a session of `requests`. A session with a `MeteredAdapter` therefore gives all
sources the same bounds, which `ctbasis/storage/least_rate.py` owns.
"""

from __future__ import annotations

import re
import weakref
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import HTTPError

from ctbasis.errors import CtbasisError, TransientError, UnreachableError
from ctbasis.storage import s3
from ctbasis.storage.least_rate import MeteredResponse, rate_fault
from ctbasis.storage.retry_after import retry_after

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Collection, Iterator, Mapping

MAX_REDIRECTS = 5

MAX_ERROR_BYTES = 64 << 10
"""Bytes of an error's text that are read."""

REQUEST_ERRORS = (requests.RequestException, HTTPError)
"""Exceptions of a request that fails; urllib3's own is raised where an answer breaks off."""

BUSY = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS}
"""Statuses below 500 of a request that may succeed later."""

_is_object: ContextVar[bool] = ContextVar("is_object", default=False)


@dataclass(frozen=True)
class ErrorAnswer:
    """An answer with an error status.

    Attributes:
        url: Address of the request; like the text, for comparisons only.
        status: HTTP status.
        headers: Header fields; names in any case.
        text: The text of the answer, or its beginning. It is for comparisons, and never shown.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def is_denied(self) -> bool:
        """Whether the server denies access."""
        return self.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}

    def field(self, pattern: str) -> str:
        """Return the first group of `pattern`, a code of letters and digits, in the text; empty if it is not there."""
        match = re.search(pattern, self.text)
        return match[1] if match and re.fullmatch(r"\w{1,80}", match[1]) else ""


def _metered(sock: socket.socket, *arguments: Any, **named: Any) -> MeteredResponse:
    return MeteredResponse(sock, *arguments, has_object=_is_object.get(), **named)


class _Connection(HTTPConnection):
    response_class = staticmethod(_metered)  # type: ignore[assignment] # http.client only calls it


class _SecureConnection(HTTPSConnection):
    response_class = staticmethod(_metered)  # type: ignore[assignment] # the same


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class MeteredAdapter(HTTPAdapter):
    """Sends the requests of a session. Answers that are too slow or too large, and error statuses, raise exceptions.

    Args:
        server: Name of the server in messages, without a user name or a query.
        connections: Concurrent requests.
        explain: Gives the error for an answer with an error status that no other attempt changes.
        passed: Statuses that the library above handles itself, such as 401 if it renews its token.
    """

    def __init__(
        self,
        server: str,
        connections: int,
        explain: Callable[[ErrorAnswer], CtbasisError],
        passed: Collection[int] = (),
    ) -> None:
        self._server = server
        self._explain = explain
        self._passed = frozenset(passed)
        super().__init__(pool_maxsize=connections, max_retries=0)

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        """Create the pools of connections; see `requests.adapters.HTTPAdapter`."""
        super().init_poolmanager(*arguments, **named)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        # A process that reads many sources, one after the other, keeps no connection to the former ones.
        weakref.finalize(self, self.poolmanager.clear)

    def proxy_manager_for(self, proxy: str, **named: Any) -> Any:
        """Return the pools of connections of a proxy; see `requests.adapters.HTTPAdapter`."""
        manager = super().proxy_manager_for(proxy, **named)
        manager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
        return manager

    def send(self, request: requests.PreparedRequest, *arguments: Any, **named: Any) -> requests.Response:
        """Send a request and return the answer.

        Raises:
            TransientError: The server is busy or fails; another attempt may succeed.
            CtbasisError: An error status, a compressed answer that is no object, or a redirection from TLS to none.
            requests.RequestException: The request failed; see `Site.translated`.
        """
        # The libraries above have timeouts of their own, all of them longer.
        named["timeout"] = (s3.CONNECT_SECONDS, s3.READ_SECONDS)
        answer = super().send(request, *arguments, **named)
        if answer.is_redirect:
            self._require_same_protection(request, answer)
        elif answer.status_code >= HTTPStatus.BAD_REQUEST:
            _read_error(answer)
            if answer.status_code not in self._passed:
                raise self.error(answer)
        elif not _is_object.get() and answer.headers.get("Content-Encoding", "identity").lower() != "identity":
            # Its size is limited before it is unpacked, not after.
            answer.close()
            raise CtbasisError(
                f"{self._server} compresses an answer, which no request allows",
                expected="an answer without Content-Encoding",
                cause="the address is not that of the server, or a proxy compresses answers",
                remedy="check the source and the proxy",
            )
        return answer

    def error(self, answer: requests.Response) -> CtbasisError | TransientError:
        """Return the error for an answer with an error status."""
        status = answer.status_code
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in BUSY:
            return TransientError(
                f"{status} {_phrase(status)}".strip(), retry_after=retry_after(answer.headers.get("Retry-After"))
            )
        text = answer.content.decode(errors="replace")
        return self._explain(ErrorAnswer(str(answer.request.url), status, answer.headers, text))

    def _require_same_protection(self, request: requests.PreparedRequest, answer: requests.Response) -> None:
        target = urljoin(str(request.url), answer.headers["Location"])
        allowed = {"https"} if urlsplit(str(request.url)).scheme == "https" else {"http", "https"}
        if urlsplit(target).scheme.lower() not in allowed:
            answer.close()
            raise CtbasisError(
                f"{self._server} redirects a request to an address without TLS, or of another protocol",
                expected="an https:// address",
                cause="the server is wrongly configured, or is not the one that was meant",
                remedy="check the source",
            )


class Site:
    """A server with the session of its requests.

    Attributes:
        server: Name of the server in messages.
        session: The session. Any number of threads may use it.

    Args:
        server: As the attribute.
        what: What the server is, in messages: Google Cloud Storage, the DICOMweb server.
        connections: Concurrent requests.
        explain: As of `MeteredAdapter`.
        session: A session of a library; by default a plain one.
        passed: As of `MeteredAdapter`.
    """

    def __init__(
        self,
        server: str,
        *,
        what: str,
        connections: int,
        explain: Callable[[ErrorAnswer], CtbasisError],
        session: requests.Session | None = None,
        passed: Collection[int] = (),
    ) -> None:
        self.server = server
        self._what = what
        self.session = requests.Session() if session is None else session
        self.session.max_redirects = MAX_REDIRECTS
        self.session.headers["Accept-Encoding"] = "identity"
        self.adapter = MeteredAdapter(server, connections, explain, passed)
        self.session.mount("https://", self.adapter)
        self.session.mount("http://", self.adapter)

    def get(self, url: str, **named: Any) -> requests.Response:
        """Return the answer to a GET request that is no object's content.

        Args:
            url: The address.
            named: As of `requests.Session.get`.

        Raises:
            TransientError: The request failed; another attempt may succeed.
            CtbasisError: The server refuses it.
        """
        with self.translated():
            return self.session.get(url, **named)

    @contextmanager
    def content(self, url: str, **named: Any) -> Iterator[requests.Response]:
        """Yield the answer to a GET request for an object, of any size; read it by `raw_content` within the block.

        Args:
            url: The address.
            named: As of `requests.Session.get`.

        Raises:
            TransientError: The request failed, or the content broke off; another attempt may succeed.
            CtbasisError: The server refuses it.
        """
        with self.translated():
            token = _is_object.set(True)
            try:
                answer = self.session.get(url, stream=True, **named)
            finally:
                _is_object.reset(token)
            with answer:
                yield answer

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn the exceptions of `requests` and urllib3 into those of `Source`. No message repeats an address.

        Raises:
            TransientError: The request failed; another attempt may succeed.
            CtbasisError: No other attempt can succeed.
        """
        try:
            yield
        except REQUEST_ERRORS as error:
            raise self.translate(error) from None

    def translate(self, error: Exception) -> CtbasisError | TransientError:
        """Return the error for an exception of `requests`, of urllib3, or of a library that has one as its cause."""
        if isinstance(error, requests.exceptions.SSLError):
            return CtbasisError(
                f"the TLS certificate of {self.server} cannot be verified (SSLError)",
                expected="a certificate signed by an authority that this machine trusts",
                cause="a private certificate authority, or a proxy that replaces certificates",
                remedy="set REQUESTS_CA_BUNDLE to the certificate of that authority",
            )
        if isinstance(error, requests.exceptions.TooManyRedirects):
            return CtbasisError(
                f"{self.server} redirects a request more than {MAX_REDIRECTS} times",
                expected="an answer",
                cause="the address is not that of the server, or a page to sign in stands before it",
                remedy="check the source",
            )
        return TransientError(rate_fault(error) or type(error).__name__)

    def unreachable(self, reason: str) -> UnreachableError:
        """Return the error for a server that gives no answer or none that can be used."""
        return UnreachableError(
            f"{self._what} at {self.server} does not answer ({reason})",
            expected=f"an answer within {s3.CONNECT_SECONDS} s",
            cause="the server is down or overloaded, its address is wrong, or a proxy or firewall blocks it",
            remedy="check the source and the network, and run the step again",
        )

    def invalid(self, fault: str) -> CtbasisError:
        """Return the error for an answer to a listing request that is no listing, from what is wrong with it."""
        return CtbasisError(
            f"the answer of {self.server} to the listing request is not a listing: {fault}",
            expected=f"the answer of {self._what}",
            cause="the address is that of another server, or the server is faulty",
            remedy="check the source",
        )


def _read_error(answer: requests.Response) -> None:
    """Read the beginning of an error's text, and close the connection, which a library above may forget to do."""
    answer._content = answer.raw.read(MAX_ERROR_BYTES, decode_content=False)  # noqa: SLF001 - what `content` returns
    answer._content_consumed = True  # type: ignore[attr-defined] # noqa: SLF001 - the same
    answer.close()


def raw_content(answer: requests.Response, size: int) -> Iterator[bytes]:
    """Yield the content of an answer in pieces of `size` bytes as it was sent, not unpacked."""
    yield from answer.raw.stream(size, decode_content=False)


def range_header(start: int, stop: int) -> dict[str, str]:
    """Return the header field that asks for the bytes from `start` to before `stop`."""
    return {"Range": f"bytes={start}-{stop - 1}"}


def read_range(answer: requests.Response, start: int, stop: int) -> bytes:
    """Return a range of an object from the answer to a request with `range_header`.

    If the server ignores the header and sends the whole object, the answer is read up to the end of the range.
    """
    skipped = 0 if answer.status_code == HTTPStatus.PARTIAL_CONTENT else start
    data = bytearray()
    for piece in raw_content(answer, min(stop, 1 << 20)):
        data += piece[min(skipped, len(piece)) :]
        skipped -= min(skipped, len(piece))
        if len(data) >= stop - start:
            break
    return bytes(data[: stop - start])


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
