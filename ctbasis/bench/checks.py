"""Benchmark of the checks of stores: the share of a run's processor time that checksums, manifests and listings take.

The steps of a run are called one after the other in this process, without Kubeflow, whose own time would make the share
smaller. Every function of ctbasis/storage that checks is timed, also in the threads and in the forked processes of the
steps. Processor time is compared, because it depends little on what else the machine does.
"""

from __future__ import annotations

import functools
import multiprocessing
import resource
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctbasis.matrix.ingest import ingest
from ctbasis.parameters import SvdPlan
from ctbasis.sources.fetch import fetch
from ctbasis.steps.reconstruct import reconstruct, reconstruct_patches
from ctbasis.steps.report import run_step as report
from ctbasis.steps.svd import denoise, factorize, publish
from ctbasis.storage import array_store, root, stored_array
from ctbasis.storage.array_layout import ArrayLayout
from ctbasis.storage.array_store import ArrayStore
from ctbasis.storage.stored_array import StoredArray

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CHECKS: tuple[tuple[Any, str], ...] = (
    *((module, "crc32c") for module in (array_store, root, stored_array)),
    (array_store, "read_root"),
    (array_store, "encode_root"),
    (ArrayStore, "verify"),
    (ArrayLayout, "metadata"),
    (ArrayLayout, "parse"),
    (StoredArray, "collect_manifest"),
    (StoredArray, "check_sizes"),
    (StoredArray, "_is_valid"),
)
"""Functions that do nothing but check, or write what is needed to check later."""

PLANS = {
    "global": SvdPlan.of(mode="global", engine="numpy", rank="50", ranks="50", seed=0),
    "patch": SvdPlan.of(mode="patch", engine="numpy", seed=0),
}
"""Parameters of the svd step in each mode."""

REPORT = ("figure1.png", "report.html", "report.md", "metrics.json")


class CheckTimer:
    """Processor time that checks take, in all threads of this process and of the processes that it forks."""

    def __init__(self) -> None:
        self._seconds = multiprocessing.get_context("fork").Value("d", 0.0)
        self._within = threading.local()

    @property
    def seconds(self) -> float:
        """Processor time so far in seconds."""
        return float(self._seconds.value)

    def timed(self, check: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that adds its processor time; a check within a check counts once."""

        @functools.wraps(check)
        def measured(*arguments: Any, **options: Any) -> Any:
            if getattr(self._within, "check", False):
                return check(*arguments, **options)
            self._within.check, start = True, time.thread_time()
            try:
                return check(*arguments, **options)
            finally:
                self._within.check = False
                with self._seconds.get_lock():
                    self._seconds.value += time.thread_time() - start

        return measured

    @contextmanager
    def running(self) -> Iterator[None]:
        """Time every check within the context."""
        originals = [(owner, name, vars(owner)[name]) for owner, name in CHECKS]
        for owner, name, check in originals:
            timed = classmethod(self.timed(check.__func__)) if isinstance(check, classmethod) else self.timed(check)
            setattr(owner, name, timed)
        try:
            yield
        finally:
            for owner, name, check in originals:
                setattr(owner, name, check)


def bench_checks(series: Path) -> list[dict[str, Any]]:
    """Run the steps of both modes on a series, and measure the checks in each step.

    Args:
        series: Folder of a CT series.

    Returns:
        A row for each mode and step, and for all steps of a mode, with `cpu_seconds`, `check_seconds` and `share`.
    """
    rows = []
    for mode, plan in PLANS.items():
        timer, total = CheckTimer(), [0.0, 0.0]
        with tempfile.TemporaryDirectory() as scratch, timer.running():
            for step, work in _steps(series, plan, Path(scratch)):
                before = (_cpu_seconds(), timer.seconds)
                work()
                taken = (_cpu_seconds() - before[0], timer.seconds - before[1])
                rows.append(_row(mode, step, *taken))
                total = [sum(pair) for pair in zip(total, taken, strict=True)]
        rows.append(_row(mode, "all", *total))
    return rows


def _row(mode: str, step: str, cpu: float, checks: float) -> dict[str, Any]:
    measured = {"cpu_seconds": cpu, "check_seconds": checks, "share": checks / cpu if cpu else 0.0}
    return {"bench": "checks", "mode": mode, "step": step, **measured}


def _steps(series: Path, plan: SvdPlan, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Yield the steps of a run by name, each with the function that runs it."""
    source, qc, basis = folder / "source", folder / "qc.json", str(folder / "factors.zarr")
    matrix, denoised = str(folder / "matrix.zarr"), str(folder / "denoised.zarr") if plan.mode == "patch" else ""
    rank = 0

    def svd() -> None:
        nonlocal rank
        if denoised:
            denoise(matrix, denoised, basis, plan)
        else:
            rank = factorize(matrix, basis, plan).rank
        publish(basis, folder / "basis")

    def write_series() -> None:
        if denoised:
            reconstruct_patches(denoised, folder / "out", noise=folder / "noise")
        else:
            reconstruct(basis, folder / "out", rank=rank, basis_images=folder / "basis-images")

    yield "fetch", lambda: fetch(str(series), source)
    yield "matrix", lambda: ingest(source, matrix, qc)
    yield "svd", svd
    yield "reconstruct", write_series
    outputs = {name: folder / name for name in REPORT}
    yield "report", lambda: report(matrix, basis, denoised, outputs, truth_uri="", qc=qc, rank=rank, ranks="50")


def _cpu_seconds() -> float:
    """Return the processor time in seconds of this process and of the children that have ended."""
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime
