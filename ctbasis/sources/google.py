"""Credentials of Google's libraries (Application Default Credentials), and sessions that sign requests with them."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

import requests

from ctbasis.errors import CtbasisError, TransientError
from ctbasis.sources.http import MeteredAdapter

if TYPE_CHECKING:
    from collections.abc import Iterator

CREDENTIALS = "GOOGLE_APPLICATION_CREDENTIALS"

SIGN_IN_AGAIN = f"sign in again (`gcloud auth application-default login`), or set {CREDENTIALS} to a valid key file"


def signed_session(scope: str, *, anonymous: bool = False) -> tuple[requests.Session, bool]:
    """Return a session that signs its requests with the Application Default Credentials, and whether it does.

    Without credentials, requests are unsigned, as public buckets allow.

    Args:
        scope: Scope of the tokens, the URL of a Google API.
        anonymous: Whether requests are unsigned in any case, as for an emulator.

    Raises:
        CtbasisError: The credentials that the environment names cannot be read.
    """
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError
    from google.auth.transport.requests import AuthorizedSession, Request

    if anonymous:
        return requests.Session(), False
    try:
        credentials, _ = google.auth.default(scopes=[scope])
    except (GoogleAuthError, ValueError) as error:
        if isinstance(error, DefaultCredentialsError) and not os.environ.get(CREDENTIALS):
            return requests.Session(), False
        # The message may repeat parts of the file.
        raise CtbasisError(
            f"the Google credentials cannot be read ({type(error).__name__})",
            expected=f"at {CREDENTIALS}, the key file of a service account, or the file that gcloud writes",
            cause="the file is missing, or is of another kind",
            remedy=f"check {CREDENTIALS}, or unset it for a public bucket",
        ) from None
    tokens = requests.Session()
    # The adapter answers statuses as the library expects: it explains them itself, as a RefreshError.
    adapter = MeteredAdapter("the token server", 1, lambda _: expired("refused"), passed=range(400, 500))
    tokens.mount("https://", adapter)
    tokens.mount("http://", adapter)
    session = AuthorizedSession(credentials, auth_request=Request(tokens))  # type: ignore[no-untyped-call] # untyped
    return session, True


@contextmanager
def renewing() -> Iterator[None]:
    """Turn the exceptions of Google's library for a token that cannot be renewed into those of `Source`.

    Raises:
        TransientError: The token server does not answer.
        CtbasisError: The token server refuses the credentials.
    """
    from google.auth.exceptions import GoogleAuthError, TransportError

    try:
        yield
    except TransportError as error:
        raise TransientError(f"the token cannot be renewed ({type(error).__name__})") from None
    except GoogleAuthError as error:
        # The message repeats the answer of the token server.
        raise expired(type(error).__name__) from None


def expired(reason: str) -> CtbasisError:
    """Return the error for credentials that have expired, with the reason as the library names it."""
    return CtbasisError(
        f"the Google credentials have expired or were revoked: their token cannot be renewed ({reason})",
        expected="credentials that are valid during the whole fetch",
        cause="the sign-in has expired, or the key was deleted",
        remedy=f"{SIGN_IN_AGAIN}, and run the step again; it continues where it stopped",
    )
