"""The process of a node that denoises, as `ctbasis.worker_process` starts it.

    python -m ctbasis.node.worker

A node that was killed is started again and denoises the series anew; the process of the killed one has ended with it.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctbasis.dicom.derived_series import MAX_DESCRIPTION
from ctbasis.dicom.noise_series import write_noise_series
from ctbasis.dicom.series_writer import write_series
from ctbasis.errors import CtbasisError
from ctbasis.matrix.read import read_all
from ctbasis.node.bases import StoredBases
from ctbasis.node.task import REFUSE, Task, noise_folder, volume_folder
from ctbasis.steps.denoise import denoise_on_basis
from ctbasis.steps.notes import defect
from ctbasis.worker_loop import answer_requests

if TYPE_CHECKING:
    from collections.abc import Callable

    from ctbasis.dicom.volume import Volume
    from ctbasis.node.bases import Choice


class NoBasisFitsError(CtbasisError):
    """No stored basis fits a series, and the node may not learn one on it."""


def run(task: Task, report: Callable[[str], None]) -> dict[str, Any]:
    """Denoise a series.

    Args:
        task: The series.
        report: Called with what is being done.

    Returns:
        The record of the job: `volumes` with basis, notes and SeriesInstanceUID of each, `seconds` of each stage, and
        `outputs` with SOPInstanceUID and file of each instance.

    Raises:
        NoBasisFitsError: No basis fits, and none may be learned.
        CtbasisError: The series cannot be read, denoised or written.
    """
    clock = _Clock(report)
    with clock.stage("read"):
        volumes = read_all(task.source)
    bases = StoredBases.open(task.bases)
    described, outputs = [], []
    for number, volume in enumerate(volumes, start=1):
        at = f"{number}/{len(volumes)}"
        with clock.stage(f"choose {at}"):
            choice = bases.choose(volume)
        if not choice.uri and task.unfit == REFUSE:
            raise NoBasisFitsError(
                f"no stored basis fits: {choice.reason or 'the node holds none'}",
                expected="a basis of the same spacing and kernel",
                remedy="add the basis of such series by --basis, or let the node learn by --if-no-basis-fits learn",
            )
        with clock.stage(f"denoise {at}"):
            done = denoise_on_basis(volume, choice.uri, estimated=choice.noises)
        with clock.stage(f"write {at}"):
            files = write_series(_with_basis(done.volume, choice), volume_folder(Path(task.out), number))
            if task.noise_maps and done.sigma is not None:
                write_noise_series(done.volume, done.sigma, noise_folder(Path(task.out), number))
        uids = [_uids(file) for file in files]
        outputs += [[sop, str(file)] for (_, sop), file in zip(uids, files, strict=True)]
        described.append(
            {
                "basis": choice.digest or "learned on the series",
                "reason": choice.reason,
                "notes": list(done.notes),
                "SeriesInstanceUID": uids[0][0],
                "slices": len(files),
            }
        )
    return {"volumes": described, "seconds": clock.seconds, "outputs": outputs}


def _with_basis(volume: Volume, choice: Choice) -> Volume:
    """Return a denoised volume whose derivation says which basis was used."""
    derivation = volume.derivation
    if derivation is None:
        return volume
    room = MAX_DESCRIPTION - len(derivation.description) - 1
    described = replace(derivation, description=f"{derivation.description} {choice.text[: max(room, 0)]}".strip())
    return replace(volume, derivation=described)


def _uids(file: Path) -> tuple[str, str]:
    import pydicom

    header = pydicom.dcmread(file, specific_tags=["SeriesInstanceUID", "SOPInstanceUID"])
    return str(header.SeriesInstanceUID), str(header.SOPInstanceUID)


class _Clock:
    """Measures the stages of a job and reports their begin."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self.seconds: dict[str, float] = {}
        self._report = report
        self._name, self._start = "", 0.0

    def stage(self, name: str) -> _Clock:
        self._name, self._start = name, time.monotonic()
        self._report(name)
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self.seconds[self._name] = round(time.monotonic() - self._start, 3)


def main() -> None:
    """Answer requests until standard input ends."""
    answer_requests(lambda request, report: _answer(Task(**request), report))


def _answer(task: Task, report: Callable[[str], None]) -> dict[str, Any]:
    try:
        return {"record": run(task, report)}
    except NoBasisFitsError as error:
        return {"refused": str(error)}
    except CtbasisError as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - one bad series costs itself
        return {"error": str(defect(error))}


if __name__ == "__main__":
    main()
