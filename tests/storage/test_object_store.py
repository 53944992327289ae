"""Objects on S3 as a zarr store: parts, listings and deletions, refusals that show no secret, and outages outlived."""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import pytest
import zarr
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype

from ctbasis.errors import CtbasisError
from ctbasis.matrix.store import MatrixStore, MatrixWriter
from ctbasis.storage import object_store, stores
from ctbasis.storage.object_store import ObjectStore
from tests.svd.conftest import write_matrix

if TYPE_CHECKING:
    from ctbasis.demo.s3server import S3Server

SECRET = "a-secret-that-nobody-may-see"  # noqa: S105 - made up, to look for it in messages


def refusal(uri: str) -> str:
    with pytest.raises(CtbasisError) as caught:
        MatrixStore.open(uri)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__
    assert "remedy: " in str(caught.value)
    return str(caught.value)


def test_parts_of_an_object_are_read_as_zarr_asks_for_them(prefix: str) -> None:
    objects = ObjectStore(prefix)
    objects.write("a/b", b"0123456789")
    assert objects.read("a/b") == b"0123456789"
    assert objects.read("a/b", RangeByteRequest(2, 5)) == b"234"
    assert objects.read("a/b", OffsetByteRequest(7)) == b"789"
    assert objects.read("a/b", SuffixByteRequest(4)) == b"6789"
    assert objects.read("a") is None

    async def parts() -> list[bytes | None]:
        asked = [("a/b", RangeByteRequest(0, 1)), ("a/c", None), ("a/b", None)]
        got = await objects.get_partial_values(default_buffer_prototype(), asked)
        return [None if part is None else part.to_bytes() for part in got]

    assert asyncio.run(parts()) == [b"0", None, b"0123456789"]


def test_listings_go_on_page_after_page_and_deletions_batch_after_batch(prefix: str) -> None:
    objects = ObjectStore(prefix)
    wanted = sorted([*(f"many/{number:04d}" for number in range(1003)), "many-not", "other"])
    for key in wanted:
        objects.write(key, b"")
    assert sorted(objects.keys_below()) == wanted

    async def directly_below(folder: str) -> list[str]:
        return sorted([name async for name in objects.list_dir(folder)])

    assert asyncio.run(directly_below("")) == ["many", "many-not", "other"]
    assert len(asyncio.run(directly_below("many"))) == 1003
    asyncio.run(objects.delete_dir("many"))
    assert sorted(objects.keys_below()) == ["many-not", "other"]


def test_a_store_is_equal_to_itself_elsewhere_and_travels_to_another_process(prefix: str) -> None:
    objects = ObjectStore(prefix)
    objects.write("a", b"content")
    twin = pickle.loads(pickle.dumps(objects))  # noqa: S301 - our own
    assert twin == objects
    assert twin.read("a") == b"content"
    assert objects.with_read_only(read_only=True) != objects


def test_a_store_opened_for_reading_is_not_written_to(prefix: str) -> None:
    zarr.create_array(ObjectStore(prefix), shape=(3,), dtype="int16")
    array = zarr.open_array(ObjectStore(prefix, read_only=True))
    with pytest.raises(ValueError, match="read-only"):
        array[:] = 1


def test_what_exists_is_told_from_what_only_begins_so(prefix: str) -> None:
    objects = ObjectStore(prefix)
    objects.write("matrix.zarr", b"")
    assert asyncio.run(objects.exists("matrix.zarr"))
    assert not asyncio.run(objects.exists("matrix"))


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_keys_are_refused_without_showing_them(
    prefix: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, SECRET)
    said = refusal(prefix)
    assert "does not let us read and write bucket 'stores'" in said
    assert "the keys are wrong" in said


def test_no_keys_for_a_private_bucket_are_said_to_be_none(prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no keys were found" in refusal(prefix)


@pytest.mark.usefixtures("aws")
def test_a_bucket_that_is_not_there_is_named_to_readers_writers_and_cleaners() -> None:
    for use in (MatrixStore.open, MatrixWriter, stores.delete):
        with pytest.raises(CtbasisError, match="there is no bucket 'no-such-bucket'"):
            use("s3://no-such-bucket/matrix")
    with pytest.raises(CtbasisError, match="there is no bucket 'no-such-bucket'"):
        MatrixWriter.create("s3://no-such-bucket/matrix", image=(4, 4), cols=2, dtype="int16")


def test_an_endpoint_that_stays_away_is_given_up_when_patience_ends(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://user:{SECRET}@127.0.0.1:{port}")
    monkeypatch.setattr(object_store, "PATIENCE_SECONDS", 2.0)
    start = time.monotonic()
    assert f"S3 at 127.0.0.1:{port} does not answer" in refusal(prefix)
    assert time.monotonic() - start >= 2


class Outage:
    """A TCP proxy to a server that can be away: then nobody listens, and what was connected is cut."""

    def __init__(self, endpoint: str) -> None:
        address = urlsplit(endpoint)
        self._target = address.hostname, address.port
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
            self._port = free.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []

    def end(self) -> None:
        """Let the server be there."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def begin(self) -> None:
        """Let it be away."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for each in self._open:
            # Closing is not enough while a thread still listens on it.
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.create_connection(self._target)
            self._open += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._forward, args=(source, sink), daemon=True).start()

    @staticmethod
    def _forward(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                sink.sendall(piece)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def test_writing_and_reading_outlive_an_outage_of_the_server(
    prefix: str, server: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert object_store.PATIENCE_SECONDS >= 60
    A = np.random.default_rng(0).integers(-1000, 1000, (2000, 5)).astype(np.int16)
    outage = Outage(server.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", outage.endpoint)
    for attempt in ("away from the start", "cut while it is used"):
        timer = threading.Timer(3.0, outage.end)
        timer.start()
        np.testing.assert_array_equal(write_matrix(f"{prefix}/m", A).read_block(0), A, err_msg=attempt)
        timer.join()
        outage.begin()
    assert "asking again" in capsys.readouterr().err
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    np.testing.assert_array_equal(MatrixStore.open(f"{prefix}/m").read_block(0), A)
