"""A DICOMweb server as a client sees it: its address, its credentials, and the errors of its answers."""

from __future__ import annotations

import os
from http import HTTPStatus
from typing import TYPE_CHECKING

import requests

from ctbasis.addresses import parse_address
from ctbasis.errors import CtbasisError
from ctbasis.printable import say
from ctbasis.sources.google import signed_session
from ctbasis.sources.http import ErrorAnswer, Site
from ctbasis.sources.listing import object_changed

if TYPE_CHECKING:
    from collections.abc import Collection

SCHEMES = ("dicomweb+https", "dicomweb+http")
"""Schemes of a URI that names a DICOMweb server; the second is without TLS."""

TOKEN = "DICOMWEB_TOKEN"  # noqa: S105 - the name of a variable
USERNAME = "DICOMWEB_USERNAME"
PASSWORD = "DICOMWEB_PASSWORD"  # noqa: S105 - the same
"""Variables of this client. DICOMweb itself defines none."""

GOOGLE_HOST = ".googleapis.com"
"""End of the host of Google's Cloud Healthcare API, whose tokens are those of Google's libraries."""

GOOGLE_SCOPE = "https://www.googleapis.com/auth/cloud-healthcare"


class DicomwebServer:
    """A DICOMweb server.

    Attributes:
        base: Address of the service, `https://host/path`.
        site: The server with the session of its requests.

    Args:
        uri: `dicomweb+https://host/path`; `dicomweb+http://` for a server without TLS.
        what: What the URI stands for, the subject of an error message.
        needs: What the client must be allowed to do, such as `to search and to retrieve`.
        connections: Concurrent requests.
        passed: Error statuses that the caller handles.

    Raises:
        CtbasisError: The URI is not of this form.
    """

    def __init__(self, uri: str, *, what: str, needs: str, connections: int, passed: Collection[int] = ()) -> None:
        scheme, _, rest = uri.partition("://")
        self.base = f"{scheme.lower().removeprefix('dicomweb+')}://{rest}".rstrip("/")
        address = parse_address(
            self.base, what=what, schemes=("http", "https"), example="dicomweb+https://pacs.example.org/dicom-web"
        )
        self._needs = needs
        is_google = address.host.endswith(GOOGLE_HOST) and not os.environ.get(TOKEN)
        session = signed_session(GOOGLE_SCOPE)[0] if is_google else _session(address.scheme, address.host)
        self._signed = is_google or session.auth is not None
        self.site = Site(
            str(address),
            what="the DICOMweb server",
            connections=connections,
            explain=self._explain,
            session=session,
            passed=(*passed, HTTPStatus.UNAUTHORIZED) if is_google else passed,
        )

    def refuse_unauthorized(self, answer: requests.Response) -> None:
        """Raise the error for an answer with status 401, which Google's library handles first.

        Raises:
            CtbasisError: The status is 401.
        """
        if answer.status_code == HTTPStatus.UNAUTHORIZED:
            raise self.site.adapter.error(answer)

    def _explain(self, answer: ErrorAnswer) -> CtbasisError:
        if answer.is_denied:
            return CtbasisError(
                f"{self.site.server} denies access ({answer.status})",
                expected=f"permission {self._needs}",
                cause="the token or the password is wrong, or has expired"
                if self._signed
                else f"no token and no password were found: {TOKEN}, {USERNAME} and {PASSWORD} are not set",
                remedy=f"set {TOKEN} to a new token, or {USERNAME} and {PASSWORD}, and run the step again; it "
                "continues where it stopped",
            )
        if answer.status == HTTPStatus.NOT_FOUND and "/instances/" in answer.url:
            return object_changed(self.site.server)
        return CtbasisError(
            f"{self.site.server} answers {answer.status} to a DICOMweb request",
            expected="a DICOMweb server (QIDO-RS, WADO-RS and STOW-RS)",
            cause="the path of the URI is not that of the service, such as /dicom-web, or no study has this identifier",
            remedy="check the address",
        )


def _session(scheme: str, host: str) -> requests.Session:
    """Return a session that signs its requests by the variables; without them by the .netrc file, as curl does."""
    session = requests.Session()
    token, user = os.environ.get(TOKEN, ""), os.environ.get(USERNAME, "")
    for variable in (TOKEN, USERNAME, PASSWORD):
        if not os.environ.get(variable, "").isprintable():
            raise CtbasisError(
                f"{variable} holds a control character, such as a line end",
                expected="the value alone",
                remedy=f"set {variable} again",
            )
    if token:
        session.auth = _Bearer(token)
    elif user:
        session.auth = (user, os.environ.get(PASSWORD, ""))
    if session.auth and scheme == "http" and host not in {"localhost", "127.0.0.1", "::1"}:
        say("WARNING: the token or the password for the DICOMweb server crosses the network without TLS")
    return session


class _Bearer(requests.auth.AuthBase):
    """Signs a request with a token; as an object of `requests`, because its own header would yield to .netrc."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request
