"""The bearer token that an HTTP server demands."""

from __future__ import annotations

import os

from ctbasis.errors import CtbasisError

TOKEN = "CTBASIS_HTTP_TOKEN"  # noqa: S105 - the name of a variable
"""Variable with the bearer token that clients must send."""

LEAST_TOKEN = 16
"""Characters of a token at least."""

LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
"""Addresses that other machines do not reach."""


def token_of_environment() -> str:
    """Return the bearer token that clients must send; empty if none is set.

    Raises:
        CtbasisError: It is short, or no text that a header can hold.
    """
    token = os.environ.get(TOKEN, "")
    if token and (len(token) < LEAST_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        raise CtbasisError(
            f"{TOKEN} is too short, or holds a character that no token has",
            expected=f"at least {LEAST_TOKEN} printable ASCII characters without a space",
            remedy=f"set {TOKEN} to a new random text, such as that of `openssl rand -hex 32`",
        )
    return token
