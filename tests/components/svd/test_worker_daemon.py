"""What Spark's Python workers are forked from."""

from __future__ import annotations

import socket
import sys
import zipfile
from importlib import import_module, invalidate_caches
from typing import TYPE_CHECKING
from zipimport import zipimporter

import pytest

from components.svd.worker_daemon import acknowledging, forget_zip_files

if TYPE_CHECKING:
    from pathlib import Path


def test_importers_of_zip_files_are_forgotten_and_what_is_in_them_is_still_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "sources.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("first_of_zip.py", "")
        made.writestr("second_of_zip.py", "")
    monkeypatch.syspath_prepend(str(archive))
    import_module("first_of_zip")
    assert isinstance(sys.path_importer_cache[str(archive)], zipimporter)
    others = sum(not isinstance(importer, zipimporter) for importer in sys.path_importer_cache.values())
    forget_zip_files()
    assert len(sys.path_importer_cache) == others
    invalidate_caches()
    import_module("second_of_zip")


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="only Linux can be told when to acknowledge")
def test_a_worker_acknowledges_at_once_at_the_start_of_each_task() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        executor = socket.create_connection(listening.getsockname())
        sock, _ = listening.accept()
    with executor, sock:

        def at_once() -> bool:
            return bool(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK))

        def task() -> None:
            executor.sendall(b"task")
            sock.sendall(sock.recv(4))
            executor.recv(4)

        def worker(_sock: socket.socket, _authenticated: bool) -> int:
            seen.append(at_once())
            task()
            return 0

        seen: list[bool] = []
        # The kernel puts acknowledgements off once it has seen that an answer carries them.
        for _ in range(100):
            task()
        assert not at_once()
        assert [acknowledging(worker)(sock, authenticated) for authenticated in (False, True)] == [0, 0]
        assert seen == [True, True]
        for _ in range(100):
            task()
        worker(sock, True)
        assert seen[-1] is False
