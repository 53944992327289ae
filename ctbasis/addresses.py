"""Network addresses that a user gives: S3 endpoints, clusters of engines, Kubeflow servers.

An address may hold a password by mistake, and then no message may repeat it. All addresses pass through
`parse_address`, which refuses what no server can have: a port beyond 65,535, spaces, a user name, an IPv6 address
without brackets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from ctbasis.errors import CtbasisError
from ctbasis.printable import printable

if TYPE_CHECKING:
    from collections.abc import Collection

LONGEST = 2000
"""Characters of an address at most. The name of a host has 253 at most (RFC 1035)."""

LARGEST_PORT = 65535

LONGEST_PORT = 6
"""Digits of a port that a message repeats, at most."""

HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252})")
"""Name of a host or an IPv4 address. RFC 1035 allows no underscore, but Docker Compose and some servers use it."""

IPV6 = re.compile(r"[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9_.-]+)?")


@dataclass(frozen=True)
class Address:
    """A parsed address.

    Attributes:
        scheme: Scheme in lower case; empty if the address has none.
        host: Name or IP address of the host, without brackets.
        port: Port; None if the address has none.
    """

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}" if self.port is not None else host


def parse_address(
    text: str, *, what: str, schemes: Collection[str], example: str, needs_port: bool = False, path_allowed: bool = True
) -> Address:
    """Parse an address `scheme://host:port`.

    Args:
        text: The address.
        what: What the address stands for, the subject of an error message: AWS_ENDPOINT_URL, the cluster.
        schemes: Schemes that are allowed, in lower case; an empty string allows an address without a scheme.
        example: A valid address, for the message.
        needs_port: Whether the address must name a port.
        path_allowed: Whether a path may follow.

    Raises:
        CtbasisError: The text is no such address. The message repeats the text only if it cannot hold a secret.
    """
    fault = _fault(text)
    scheme, separator, _ = text.partition("://")
    scheme = scheme.lower() if separator else ""
    if not fault and scheme not in schemes:
        known = " or ".join(f"{name}://" for name in schemes if name)
        fault = (
            f"does not begin with {known}" if not scheme else f"does not begin with {known}, but with another scheme"
        )
    if fault:
        raise _refusal(what, fault, example)
    try:
        parts = urlsplit(text if separator else f"//{text}")
        host, port = parts.hostname or "", parts.port
    except ValueError:
        # The message of urlsplit repeats a part of the address.
        raise _refusal(what, _split_fault(text), example) from None
    if not (HOST.fullmatch(host) or (":" in host and IPV6.fullmatch(host))):
        raise _refusal(what, "names no host", example)
    if port == 0 or (port is None and (needs_port or parts.netloc.endswith(":"))):
        raise _refusal(what, "names no port", example)
    if not path_allowed and parts.path.strip("/"):
        raise _refusal(what, "has a path after the port", example)
    return Address(scheme, host, port)


def unusable_port(port: int, host: str, error: Exception, *, option: str) -> CtbasisError:
    """Return the error for a port that cannot be listened on.

    Args:
        port: The port.
        host: The address; empty for all of this machine.
        error: The exception of the operating system.
        option: Option that names the port.
    """
    reason = getattr(error, "strerror", None) or type(error).__name__
    return CtbasisError(
        f"port {port} of {host or 'this machine'} cannot be listened on ({reason})",
        expected="a free port on an address of this machine",
        cause="another program listens there, or ports below 1024 need more rights",
        remedy=f"choose another {option}, or another --host",
    )


def _fault(text: str) -> str:
    """Return what is wrong with the characters of an address, or an empty string."""
    if not text:
        return "is empty"
    if len(text) > LONGEST:
        return f"has {len(text):,} characters"
    # A password may stand before an @, in a query or in a fragment.
    if "@" in text:
        return "contains an @, which separates a user name and a password from the host"
    if "?" in text or "#" in text:
        return "has a query or a fragment"
    if printable(text) != text or " " in text or "\\" in text:
        return "contains a space or a character that no address has"
    return ""


def _split_fault(text: str) -> str:
    """Return why `urlsplit` refuses an address or its port."""
    authority = text.partition("://")[2] or text
    authority = authority.partition("/")[0]
    if authority.count(":") > 1 and "[" not in authority:
        return "is an IPv6 address without brackets"
    if authority.count("[") != authority.count("]"):
        return "cannot be parsed: a bracket is missing"
    _, separator, port = authority.rpartition(":")
    if separator and not port.endswith("]"):
        # What is no number may be a password.
        shown = f"the port {port}" if port.isdecimal() and len(port) <= LONGEST_PORT else "a port that is no number"
        return f"has {shown}, and a port is a number from 1 to {LARGEST_PORT}"
    return "cannot be parsed"


def _refusal(what: str, fault: str, example: str) -> CtbasisError:
    return CtbasisError(
        f"{what} {fault}",
        expected=f"an address such as {example}",
        cause="the address is misspelt, or is that of another kind of server",
        remedy=f"correct {what}; keys and passwords have variables of their own",
    )
