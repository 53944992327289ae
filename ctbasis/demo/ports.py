"""Free TCP ports on the loopback interface."""

from __future__ import annotations

import secrets
import socket

HOST = "127.0.0.1"
"""Loopback address."""

PORTS = range(11_000, 20_000)
"""Range of the ports. 10,000 higher, they are still below the range that kernels use for outgoing connections."""


def free_ports(count: int, *, offset: int = 0) -> list[int]:
    """Draw free ports. Another process can take a port at any time.

    Args:
        count: Number of ports.
        offset: The port with the number higher by this is free too.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = secrets.choice(PORTS)
        if port not in ports and _is_free(port) and _is_free(port + offset):
            ports.append(port)
    return ports


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
