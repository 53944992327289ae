"""The daemon from which Spark's Python workers are forked."""

from __future__ import annotations

import io
import resource
import socket
import sys
import threading
import zipfile
from importlib import import_module, invalidate_caches
from multiprocessing import get_context
from typing import TYPE_CHECKING
from zipimport import zipimporter

import numpy as np
import pytest

from ctbasis.spark.worker_daemon import Acknowledging, forget_zip_files, keep_freed_memory, prepare_workers, prepared

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A zip file with two modules in sys.path."""
    path = tmp_path / "sources.zip"
    with zipfile.ZipFile(path, "w") as made:
        made.writestr("first_of_zip.py", "")
        made.writestr("second_of_zip.py", "")
    monkeypatch.syspath_prepend(str(path))
    for name in ("first_of_zip", "second_of_zip"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return str(path)


def test_importers_of_zip_files_are_dropped_and_their_modules_are_still_found(archive: str) -> None:
    import_module("first_of_zip")
    assert isinstance(sys.path_importer_cache[archive], zipimporter)
    others = sum(not isinstance(importer, zipimporter) for importer in sys.path_importer_cache.values())
    forget_zip_files()
    assert len(sys.path_importer_cache) == others
    invalidate_caches()
    import_module("second_of_zip")


def connected() -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        one = socket.create_connection(listening.getsockname())
        other, _ = listening.accept()
    return one, other


def test_a_task_drops_the_importers_that_the_previous_one_created(archive: str) -> None:
    calls = []

    def main(infile: io.BufferedReader, outfile: io.BufferedWriter) -> None:
        calls.append((infile.read(4), archive in sys.path_importer_cache))
        import_module(f"{'first' if len(calls) == 1 else 'second'}_of_zip")
        assert archive in sys.path_importer_cache
        outfile.write(b"done")
        outfile.flush()

    executor, worker = connected()
    with executor, worker, worker.makefile("rb") as infile, worker.makefile("wb") as outfile:
        for task in (b"one.", b"two."):
            executor.sendall(task)
            prepared(main)(infile, outfile)
            assert executor.recv(4) == b"done"
    assert calls == [(b"one.", False), (b"two.", False)]


def stream_of_a_task() -> str:
    """Return the kind of stream from which a worker that PySpark's daemon forks reads a task."""
    from pyspark import daemon, worker

    kinds: list[str] = []
    # The name of the module is the argument that Spark starts the daemon with.
    sys.argv[1:] = ["pyspark.worker"]
    worker.main = lambda infile, _outfile: kinds.append(type(infile.raw).__name__)
    prepare_workers()
    executor, of_worker = connected()
    with executor, of_worker:
        daemon.worker(of_worker, authenticated=True)
    (kind,) = kinds
    return kind


def test_workers_of_pyspark_run_tasks_by_the_prepared_main() -> None:
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        assert pool.apply(stream_of_a_task) == Acknowledging.__name__


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="the option exists on Linux only")
def test_received_data_is_acknowledged_at_once() -> None:
    executor, worker = connected()
    with executor, worker, worker.makefile("rb") as stream:

        def at_once() -> bool:
            return bool(worker.getsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK))

        def exchange(infile: io.BufferedReader) -> None:
            executor.sendall(b"task")
            assert infile.read(4) == b"task"
            calls.append(at_once())
            worker.sendall(b"done")
            executor.recv(4)

        calls: list[bool] = []
        # The kernel delays acknowledgements once it has seen that answers carry them.
        for _ in range(100):
            exchange(stream)
        assert calls[-1] is False
        acknowledging = io.BufferedReader(Acknowledging(stream))
        del calls[:]
        for _ in range(100):
            exchange(acknowledging)
        assert all(calls)
        acknowledging.close()
        exchange(stream)


def test_data_in_several_parts_is_read_to_its_end() -> None:
    sent = np.random.default_rng(0).bytes(3 << 20)
    executor, worker = connected()
    with executor, worker, worker.makefile("rb") as stream:
        sender = threading.Thread(target=lambda: (executor.sendall(sent), executor.shutdown(socket.SHUT_WR)))
        sender.start()
        with io.BufferedReader(Acknowledging(stream)) as reader:
            assert reader.read(10) == sent[:10]
            assert reader.read() == sent[10:]
            assert reader.read(1) == b""
        sender.join()


def faults_of_blocks(keep: bool) -> int:
    """Return the page faults of creating and deleting four arrays of 16 MiB, twenty times."""
    if keep:
        keep_freed_memory()

    def made() -> int:
        return sum(len(block) for block in [np.ones(2 << 20) for _ in range(4)])

    made()
    made()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        made()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="mallopt is a function of glibc")
def test_memory_of_row_blocks_is_reused() -> None:
    with get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        each, kept = (pool.apply(faults_of_blocks, (keep,)) for keep in (False, True))
    # Pages may be huge pages of 2 MiB instead of 4 KiB.
    assert each >= 20 * 4 * 8
    assert kept < each / 10
