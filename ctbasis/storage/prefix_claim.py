"""One writer at a time to a prefix on S3, which has no locks.

Each process that begins to write puts an object of its own below `PREFIX/.ctbasis-writers` and then lists that place;
S3's listings contain what was put before. A process continues only if it finds no other claim, so of two at least one
sees the other: it withdraws its own claim, and if the other one has not begun either, as when both came at the same
moment, it tries again after a random time. A claim is renewed while its process lives. One that has not been renewed
for long, or whose process is of this machine and is gone, is removed. The times that are compared are the server's.
"""

from __future__ import annotations

import json
import os
import random
import socket
import threading
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

import psutil

from ctbasis.errors import CtbasisError
from ctbasis.storage.object_store import ObjectStore

if TYPE_CHECKING:
    from collections.abc import Iterator

WRITERS = ".ctbasis-writers"
"""Where the claims of a prefix are, below it."""

RENEWAL_SECONDS = 20.0

ATTEMPTS, LONGEST_PAUSE_SECONDS = 8, 2.0
"""Attempts of a process that finds others which have not begun either, and the pause between two."""

LAPSE_SECONDS = 120.0
"""Seconds without a renewal after which a claim is that of a process that was killed."""


@dataclass(frozen=True)
class Claim:
    """Who writes to a prefix.

    Attributes:
        host: Name of the machine.
        pid: Id of the process.
        created: Time at which the process started, seconds since 1970 on its machine.
        since: UTC time at which the claim was made, ISO 8601.
        started: Whether its process has found no other claim.
    """

    host: str
    pid: int
    created: float
    since: str
    started: bool = False

    @classmethod
    def mine(cls) -> Self:
        """Return the claim of this process."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time(), since)

    @classmethod
    def parse(cls, content: bytes | None) -> Self | None:
        """Return the claim of an object; None if it is gone or damaged."""
        try:
            stored = json.loads(content or b"")
            return cls(
                str(stored["host"]),
                int(stored["pid"]),
                float(stored["created"]),
                str(stored["since"]),
                bool(stored["started"]),
            )
        except (ValueError, KeyError, TypeError):
            return None

    def encoded(self) -> bytes:
        """Return the content of the object."""
        return json.dumps(asdict(self)).encode()

    @property
    def is_of_a_dead_process(self) -> bool:
        """Whether its process ran on this machine and is gone."""
        if self.host != socket.gethostname():
            return False
        try:
            return abs(psutil.Process(self.pid).create_time() - self.created) > 1
        except psutil.NoSuchProcess:
            return True


@contextmanager
def claimed(uri: str) -> Iterator[None]:
    """Claim a prefix for this process within the context.

    Args:
        uri: `s3://bucket/prefix`.

    Raises:
        CtbasisError: Another process writes there; or S3 denies access or does not answer.
    """
    writers, mine = ObjectStore(f"{uri}/{WRITERS}"), Claim.mine()
    key = f"{uuid.uuid4().hex}.json"
    for attempt in range(1, ATTEMPTS + 1):
        writers.write(key, mine.encoded())
        other = _other(writers, key)
        if other is None:
            break
        _withdraw(writers, key)
        if other.started or attempt == ATTEMPTS:
            raise _refusal(uri, other)
        time.sleep(random.uniform(0.1, 1) * LONGEST_PAUSE_SECONDS)  # noqa: S311 - the pause is no secret
    over = threading.Event()
    renewing = threading.Thread(target=_renew, args=(writers, key, replace(mine, started=True), over), daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        _withdraw(writers, key)


def _withdraw(writers: ObjectStore, key: str) -> None:
    # If S3 does not answer, the claim lapses.
    with suppress(CtbasisError):
        writers.remove([key])


def _other(writers: ObjectStore, key: str) -> Claim | None:
    """Return the claim of another process, of one that has begun if there is one; remove lapsed ones."""
    written, found = writers.written(), None
    for other, time_of_other in written.items():
        if other == key:
            continue
        claim = Claim.parse(writers.read(other))
        lapsed = key in written and (written[key] - time_of_other).total_seconds() > LAPSE_SECONDS
        if claim is None or lapsed or claim.is_of_a_dead_process:
            writers.remove([other])
        elif found is None or claim.started:
            found = claim
    return found


def _renew(writers: ObjectStore, key: str, mine: Claim, over: threading.Event) -> None:
    while True:
        # One renewal may fail; the next one follows.
        with suppress(CtbasisError):
            writers.write(key, mine.encoded())
        if over.wait(RENEWAL_SECONDS):
            return


def _refusal(uri: str, other: Claim) -> CtbasisError:
    return CtbasisError(
        f"{uri} is being written by process {other.pid} on {other.host}, since {other.since}",
        expected="one run at a time into an output",
        cause="another run has the same output",
        remedy=f"wait for its end, or choose another output; if that process was killed, repeat the command in "
        f"{LAPSE_SECONDS / 60:.0f} minutes",
    )
