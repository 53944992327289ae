"""Free ports of this machine."""

from __future__ import annotations

import secrets
import socket

HOST = "127.0.0.1"

PORTS = range(11_000, 20_000)
"""Where ports are drawn from: 10,000 higher still below the range that kernels give to outgoing connections."""


def free_ports(count: int, *, offset: int = 0) -> list[int]:
    """Return so many ports that nobody has, with those `offset` above them; another process can take one any time."""
    found: list[int] = []
    while len(found) < count:
        port = secrets.choice(PORTS)
        if port not in found and _is_free(port) and _is_free(port + offset):
            found.append(port)
    return found


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
