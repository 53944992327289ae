"""One process at a time writes to a prefix on a real S3 server; the others are told which one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from ctbasis.errors import CtbasisError
from ctbasis.storage import prefix_claim
from ctbasis.storage.object_store import ObjectStore
from ctbasis.storage.prefix_claim import WRITERS, Claim, claimed


def writers(prefix: str) -> ObjectStore:
    return ObjectStore(f"{prefix}/{WRITERS}")


def test_the_second_is_told_who_writes_and_leaves_nothing(prefix: str) -> None:
    with claimed(prefix):
        with (
            pytest.raises(CtbasisError, match=rf"process {os.getpid()} on {socket.gethostname()}, since 20"),
            claimed(prefix),
        ):
            pytest.fail("two processes write")
        assert len(writers(prefix).sizes()) == 1
    assert writers(prefix).sizes() == {}
    with claimed(prefix):
        pass


def test_of_many_that_begin_at_once_one_continues(prefix: str) -> None:
    barrier, over, inside = threading.Barrier(6), threading.Event(), []

    def begin(number: int) -> None:
        barrier.wait()
        try:
            with claimed(prefix):
                inside.append(number)
                over.wait(60)
        except CtbasisError:
            pass

    threads = [threading.Thread(target=begin, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 60
    while sum(thread.is_alive() for thread in threads) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(inside) == 1
    over.set()
    for thread in threads:
        thread.join()
    assert writers(prefix).sizes() == {}


def test_a_claim_lapses_with_its_process_or_with_time_and_not_while_it_is_renewed(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        mine = replace(Claim.mine(), pid=process.pid, started=True)
        writers(prefix).write("gone.json", mine.encoded())
    elsewhere = replace(Claim.mine(), host="another-machine", started=True)
    with claimed(prefix):
        assert "gone.json" not in writers(prefix).sizes(), "its process is gone"
    writers(prefix).write("elsewhere.json", elsewhere.encoded())
    with pytest.raises(CtbasisError, match="on another-machine"), claimed(prefix):
        pytest.fail("two processes write")
    monkeypatch.setattr(prefix_claim, "LAPSE_SECONDS", 2.0)
    monkeypatch.setattr(prefix_claim, "RENEWAL_SECONDS", 0.2)
    time.sleep(3.1)
    with claimed(prefix):
        assert "elsewhere.json" not in writers(prefix).sizes(), "nobody renewed it"
        time.sleep(3.1)
        with pytest.raises(CtbasisError, match="is being written"), claimed(prefix):
            pytest.fail("two processes write")
