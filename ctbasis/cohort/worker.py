"""A process of a cohort run that lives on: it reads requests from standard input, and writes an answer to each.

    python -m ctbasis.cohort.worker

A request and its answer are one line of JSON each. What the steps log goes to standard error, which is a file that
holds the log of one request. The process ends with its standard input, so it does not outlive a run that was killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctbasis.cohort.series_fetch import SeriesName, fetch_series
from ctbasis.errors import CtbasisError
from ctbasis.parameters import DeidentificationPlan
from ctbasis.steps.notes import defect

if TYPE_CHECKING:
    from collections.abc import Callable

STANDARD_OUTPUT, STANDARD_ERROR = 1, 2


def main() -> None:
    """Answer requests until standard input ends."""
    # Ctrl-C reaches every process of the terminal; the run decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with os.fdopen(os.dup(STANDARD_OUTPUT), "w", encoding="utf-8") as answers:
        # Whatever else writes to standard output would be taken for an answer.
        os.dup2(STANDARD_ERROR, STANDARD_OUTPUT)
        for line in sys.stdin:
            _empty_log()
            answers.write(json.dumps(_answer(json.loads(line))) + "\n")
            answers.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    try:
        return REQUESTS[request["request"]](request)
    except CtbasisError as error:
        return {"error": str(error)}
    except Exception as error:  # noqa: BLE001 - one bad series costs itself
        return {"error": str(defect(error))}


def _fetch(request: dict[str, Any]) -> dict[str, Any]:
    plan = DeidentificationPlan.from_json(request["deidentification"])
    only = SeriesName(**request["only"]) if request["only"] else None
    content, seconds = fetch_series(request["source"], Path(request["folder"]), plan, only=only)
    return {"content": content, "seconds": seconds}


def _denoise(request: dict[str, Any]) -> dict[str, Any]:
    # A process that only fetches does not import the numerics.
    from ctbasis.cohort.denoise import Task, denoise

    return {"records": [record.to_json() for record in denoise(Task.from_json(request["task"]))]}


def _learn(request: dict[str, Any]) -> dict[str, Any]:
    from ctbasis.cohort.denoise import Task, learn

    records = learn(Task.from_json(request["task"]), Path(request["bases"]))
    return {"records": [record.to_json() for record in records]}


REQUESTS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "fetch": _fetch,
    "denoise": _denoise,
    "learn": _learn,
}


def _empty_log() -> None:
    """Empty the log, so that it stays small however many series there are; it is opened for appending."""
    try:
        os.ftruncate(STANDARD_ERROR, 0)
    except OSError:
        # A terminal or a pipe.
        return


if __name__ == "__main__":
    main()
