"""The process of a served model that denoises, as `ctbasis.worker_process` starts it.

    python -m ctbasis.serving.worker

A volume that kills it, because the memory is not enough, costs one request and not the server.
"""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from ctbasis.dicom.volume import Volume
from ctbasis.errors import CtbasisError
from ctbasis.node.bases import StoredBases
from ctbasis.node.task import REFUSE
from ctbasis.serving.task import Task
from ctbasis.steps.denoise import denoise_on_basis
from ctbasis.steps.notes import defect
from ctbasis.worker_loop import answer_requests

if TYPE_CHECKING:
    from collections.abc import Callable


def run(task: Task, report: Callable[[str], None]) -> dict[str, Any]:
    """Denoise a volume.

    Args:
        task: The volume.
        report: Called with what is being done.

    Returns:
        The record: `basis`, `reason`, `notes`, `seconds`, and the `choosing` part of these, in which the noise is
        estimated to choose the basis.

    Raises:
        CtbasisError: The volume cannot be denoised, or no basis fits and none may be learned.
    """
    start = time.monotonic()
    volume = Volume(np.load(task.hu), (task.spacing[0], task.spacing[1], task.spacing[2]))
    report("choose")
    choice = _bases(task.bases).choose(volume)
    chosen = time.monotonic()
    if not choice.uri and task.unfit == REFUSE:
        raise CtbasisError(
            f"no stored basis fits: {choice.reason or 'the server holds none'}",
            expected="a volume of the spacing and the kernel of a basis",
            remedy="serve the basis of such series, or let the server learn by --if-no-basis-fits learn",
        )
    report("denoise")
    done = denoise_on_basis(volume, choice.uri, estimated=choice.noises)
    np.save(task.denoised, np.ascontiguousarray(done.volume.hu, np.float32))
    sigma = done.noise.sigma if done.noise is not None else np.zeros(volume.shape)
    np.save(task.sigma, np.ascontiguousarray(sigma, np.float32))
    return {
        "basis": choice.digest or "learned on the volume",
        "reason": choice.reason,
        "notes": list(done.notes),
        "seconds": round(time.monotonic() - start, 3),
        "choosing": round(chosen - start, 3),
    }


@lru_cache(maxsize=1)
def _bases(uri: str) -> StoredBases:
    return StoredBases.open(uri)


def _answer(request: dict[str, Any], report: Callable[[str], None]) -> dict[str, Any]:
    try:
        return {"record": run(Task(**request), report)}
    except CtbasisError as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - one bad volume costs itself
        return {"error": str(defect(error))}


if __name__ == "__main__":
    answer_requests(_answer)
