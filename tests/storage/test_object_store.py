"""`ObjectStore` on a real S3 server: byte ranges, listings, deletions, errors without secrets, and server outages."""

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

SECRET = "a-secret-that-nobody-may-see"  # noqa: S105 - an invented key, which must not appear in messages


def refusal(uri: str) -> str:
    """Open a matrix at `uri`; return the message of the error, after a check that it repeats no secret."""
    with pytest.raises(CtbasisError) as caught:
        MatrixStore.open(uri)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error} {error!r}"
        error = error.__cause__ or error.__context__
    assert "remedy: " in str(caught.value)
    return str(caught.value)


def test_byte_ranges_of_an_object_are_read(prefix: str) -> None:
    objects = ObjectStore(prefix)
    objects.write("a/b", b"0123456789")
    assert objects.read("a/b") == b"0123456789"
    assert objects.read("a/b", RangeByteRequest(2, 5)) == b"234"
    assert objects.read("a/b", OffsetByteRequest(7)) == b"789"
    assert objects.read("a/b", SuffixByteRequest(4)) == b"6789"
    assert objects.read("a") is None

    async def parts() -> list[bytes | None]:
        requests = [("a/b", RangeByteRequest(0, 1)), ("a/c", None), ("a/b", None)]
        buffers = await objects.get_partial_values(default_buffer_prototype(), requests)
        return [None if buffer is None else buffer.to_bytes() for buffer in buffers]

    assert asyncio.run(parts()) == [b"0", None, b"0123456789"]


def test_listings_have_several_pages_and_deletions_several_batches(prefix: str) -> None:
    objects = ObjectStore(prefix)
    expected = sorted([*(f"many/{number:04d}" for number in range(1003)), "many-not", "other"])
    for key in expected:
        objects.write(key, b"")
    assert sorted(objects.keys_below()) == expected

    async def directly_below(folder: str) -> list[str]:
        return sorted([name async for name in objects.list_dir(folder)])

    assert asyncio.run(directly_below("")) == ["many", "many-not", "other"]
    assert len(asyncio.run(directly_below("many"))) == 1003
    asyncio.run(objects.delete_dir("many"))
    assert sorted(objects.keys_below()) == ["many-not", "other"]


def test_a_pickled_store_equals_the_original_and_can_be_read(prefix: str) -> None:
    objects = ObjectStore(prefix)
    objects.write("a", b"content")
    restored = pickle.loads(pickle.dumps(objects))  # noqa: S301 - pickled above
    assert restored == objects
    assert restored.read("a") == b"content"
    assert objects.with_read_only(read_only=True) != objects


def test_a_read_only_store_refuses_writes(prefix: str) -> None:
    zarr.create_array(ObjectStore(prefix), shape=(3,), dtype="int16")
    array = zarr.open_array(ObjectStore(prefix, read_only=True))
    with pytest.raises(ValueError, match="read-only"):
        array[:] = 1


def test_a_key_that_is_only_the_beginning_of_another_does_not_exist(prefix: str) -> None:
    objects = ObjectStore(prefix)
    objects.write("matrix.zarr", b"")
    assert asyncio.run(objects.exists("matrix.zarr"))
    assert not asyncio.run(objects.exists("matrix"))


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_wrong_access_keys_are_reported_without_repeating_them(
    prefix: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, SECRET)
    message = refusal(prefix)
    assert "denies access to bucket 'stores'" in message
    assert "expected: permission to read and write it" in message
    assert "the keys are wrong" in message


def test_missing_access_keys_for_a_private_bucket_are_reported_as_missing(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "no keys were found" in refusal(prefix)


@pytest.mark.usefixtures("aws")
def test_reading_writing_and_deleting_report_the_name_of_a_missing_bucket() -> None:
    for access in (MatrixStore.open, MatrixWriter, stores.delete):
        with pytest.raises(CtbasisError, match="there is no bucket 'no-such-bucket'"):
            access("s3://no-such-bucket/matrix")
    with pytest.raises(CtbasisError, match="there is no bucket 'no-such-bucket'"):
        MatrixWriter.create("s3://no-such-bucket/matrix", image=(4, 4), cols=2, dtype="int16")


def test_requests_to_an_unreachable_endpoint_fail_after_the_retry_time(
    prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(object_store, "RETRY_SECONDS", 2.0)
    start = time.monotonic()
    assert f"S3 at 127.0.0.1:{port} does not answer" in refusal(prefix)
    assert time.monotonic() - start >= 2


class Outage:
    """A TCP proxy that simulates server outages: during one, its port is closed and its connections are cut."""

    def __init__(self, endpoint: str) -> None:
        address = urlsplit(endpoint)
        self._target = address.hostname, address.port
        with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as free:
            self._port = free.getsockname()[1]
        self.endpoint = f"http://127.0.0.1:{self._port}"
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []

    def end(self) -> None:
        """End the outage: accept connections."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def begin(self) -> None:
        """Begin the outage: close the port and cut all connections."""
        if self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
        for connection in self._open:
            # Closing alone does not end a recv() that runs in another thread.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
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
            while data := source.recv(65536):
                sink.sendall(data)
        for connection in (source, sink):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def test_writing_and_reading_continue_after_a_server_outage(
    prefix: str, server: S3Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert object_store.RETRY_SECONDS >= 60
    A = np.random.default_rng(0).integers(-1000, 1000, (2000, 5)).astype(np.int16)
    outage = Outage(server.endpoint)
    monkeypatch.setenv("AWS_ENDPOINT_URL", outage.endpoint)
    for attempt in ("down from the start", "down during use"):
        timer = threading.Timer(3.0, outage.end)
        timer.start()
        np.testing.assert_array_equal(write_matrix(f"{prefix}/m", A).read_block(0), A, err_msg=attempt)
        timer.join()
        outage.begin()
    assert "asking again" in capsys.readouterr().err
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.endpoint)
    np.testing.assert_array_equal(MatrixStore.open(f"{prefix}/m").read_block(0), A)
