"""Errors of requests that become answers."""

from __future__ import annotations

from ctbasis.errors import CtbasisError


class BadRequestError(CtbasisError):
    """The request is none that the server understands: status 400. Other errors of a user have the status 422."""
