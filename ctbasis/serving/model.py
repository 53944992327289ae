"""The served model: stored bases, and a process that denoises one volume after the other."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.errors import CtbasisError
from ctbasis.node.bases import StoredBases
from ctbasis.node.task import LEARN
from ctbasis.serving.task import Task
from ctbasis.simulate.volume import chest_phantom
from ctbasis.storage.working_folder import scratch_folder
from ctbasis.traces import Traces
from ctbasis.worker_process import DiedError, StoppedError, WorkerProcess

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

VOLUMES_PER_PROCESS = 1000
"""Volumes after which a new process is started, so that memory that a library keeps does not add up."""

LEAST_SLICES, LEAST_EDGE = 4, 64
"""Slices, rows and columns of the volume that warms the process up, at least."""


class BusyError(Exception):
    """The model works, and as many requests wait as may."""


class UnavailableError(Exception):
    """The process died in the middle of a volume, or the server stops; its text says which."""


@dataclass(frozen=True)
class Prediction:
    """A denoised volume.

    Attributes:
        denoised: HU, float32, (slices, rows, columns).
        sigma: Standard deviation of the noise of the input, HU, float32, of the same shape.
        record: Basis, notes and seconds.
    """

    denoised: NDArray[np.float32]
    sigma: NDArray[np.float32]
    record: dict[str, Any]


@dataclass
class Model:
    """A model with one process; requests wait for their turn, and are not batched.

    Attributes:
        name: Name by which clients call it.
        uris: URIs of stored bases.
        folder: Folder for its copy of the bases, temporary files, and the log of the process.
        unfit: What is done with a volume that no basis fits: `learn` or `refuse`.
        queue: Requests that may wait at the same time.
        bases: The bases; empty before `load`.
        ready: Whether it can denoise.
        traces: Traces of the work.
    """

    name: str
    uris: Sequence[str]
    folder: Path
    unfit: str = LEARN
    queue: int = 8
    bases: StoredBases = field(default_factory=StoredBases)
    ready: bool = False
    traces: Traces = field(default_factory=Traces)
    waiting: int = 0
    _turn: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _count: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def __post_init__(self) -> None:
        self._worker = WorkerProcess(
            "ctbasis.serving.worker", self.folder, self.folder / "log", own_session=True, fresh_log=True
        )

    def load(self) -> None:
        """Copy the bases, start the process, and denoise a small phantom, so that the first request finds it warm.

        Raises:
            CtbasisError: A basis is missing, incomplete, damaged, of another version, or of a run in global mode.
        """
        self.bases = StoredBases.collect(self.uris, str(self.folder / "bases.zarr"))
        described = self.bases.describe()
        spacing = described[0]["spacing"] if described else [1.0, 1.0, 1.0]
        phantom = chest_phantom(slices=LEAST_SLICES, rows=LEAST_EDGE, columns=LEAST_EDGE)
        try:
            self._denoise(phantom.hu, (spacing[2], spacing[0], spacing[1]), LEARN)
        except DiedError as died:
            raise CtbasisError(
                f"the process that denoises {died}",
                cause="the memory is not enough",
                remedy=f"give the server more memory, and see {self.folder / 'log'}",
            ) from died
        self.ready = True

    def predict(self, hu: NDArray[Any], spacing: tuple[float, float, float]) -> Prediction:
        """Denoise a volume; wait for the turn.

        Args:
            hu: HU, (slices, rows, columns).
            spacing: Distance in mm between slices, rows and columns.

        Raises:
            BusyError: Too many requests wait.
            UnavailableError: The process died, or the server stops.
            CtbasisError: The volume cannot be denoised, or no basis fits and none may be learned.
        """
        with self._count:
            if self.waiting > self.queue:
                raise BusyError
            self.waiting += 1
        try:
            with self.traces.span("wait"):
                self._turn.acquire()
            try:
                if self._worker.requests >= VOLUMES_PER_PROCESS:
                    self._worker.renew()
                return self._denoise(hu, spacing, self.unfit)
            finally:
                self._turn.release()
        except StoppedError:
            raise UnavailableError("the server stops") from None
        except DiedError as died:
            raise UnavailableError(f"the process that denoised the volume {died}") from died
        finally:
            with self._count:
                self.waiting -= 1

    def stop(self) -> None:
        """End the process; a volume in work is given up."""
        self.ready = False
        self._worker.stop()

    def _denoise(self, hu: NDArray[Any], spacing: tuple[float, float, float], unfit: str) -> Prediction:
        with scratch_folder("ctbasis-serving") as scratch:
            source, denoised, sigma = (str(scratch / f"{name}.npy") for name in ("hu", "denoised", "sigma"))
            np.save(source, hu)
            task = Task(source, spacing, denoised, sigma, self.bases.uri, unfit)
            with self.traces.span("work", voxels=hu.size) as span:
                with self.traces.stages() as report:
                    record = self._worker.call(vars(task), report)["record"]
                span.set(basis=record["basis"], seconds=record["seconds"])
            return Prediction(np.load(denoised), np.load(sigma), record)
