"""A cohort run: inventory, jobs, worker processes, summary.

The output is filled series by series, each whole or not there, and states what each was made of. So a run that was
interrupted or killed is continued by the same command, and a later run does only what is missing or changed.
"""

from __future__ import annotations

import signal
import tempfile
import time
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ctbasis.choices import AUTO
from ctbasis.cohort.dispatch import FETCHES_IN_VAIN, Dispatch, worker_processes
from ctbasis.cohort.outcome import CohortDone, in_order, series_key, summarize
from ctbasis.cohort.preparation import assignments, checked, inventoried
from ctbasis.cohort.record import SeriesRecord, State
from ctbasis.cohort.shared_basis import shared_basis
from ctbasis.cohort.state import check_settings, note_settings, settings_digest
from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.watchdog import variable, watched
from ctbasis.printable import say
from ctbasis.storage.objects import is_s3
from ctbasis.storage.outputs import locked
from ctbasis.storage.prefix_claim import claimed
from ctbasis.storage.working_folder import WorkingFolder, remove_remains, scratch_folder
from ctbasis.svd.memory import FREE_MEMORY_SHARE, free_memory
from ctbasis.threads import available_cpus

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from ctbasis.cohort.plan import CohortPlan, PlannedSeries
    from ctbasis.cohort.preparation import ObjectList

INTERRUPTED = "the series that were finished are in place; the same command continues"
"""What Ctrl-C says after it."""


def run_cohort(plan: CohortPlan, *, again: bool = False) -> CohortDone:
    """Denoise the series of a source, each on its own or with others of its geometry.

    Args:
        plan: What to do.
        again: Whether settings other than those of the output's earlier runs are meant.

    Returns:
        What became of each series. A series that failed is among them with its reason.

    Raises:
        CtbasisError: The source cannot be listed or holds no CT; the selection selects nothing; two series would share
            a folder; the output cannot be written, or holds something else or a cohort with other settings; or a
            parameter is out of bounds.
        KeyboardInterrupt: Ctrl-C or SIGTERM; the series that were finished are in place.
    """
    start = time.monotonic()
    plan = checked(plan)
    other_settings = check_settings(plan, again=again)
    with _stopped_by_signals(), _explained(plan.out), ExitStack() as stack:
        folder = _prepared(plan.out, stack)
        rows, series, objects = inventoried(plan, folder)
        note_settings(plan)
        if not is_s3(plan.out):
            for place in {(Path(plan.out) / one.folder).parent for one in series}:
                remove_remains(place)
        outcomes = _outcomes(plan, series, objects, folder, relearn=other_settings)
        records = in_order(rows, outcomes)
        summarize(plan, records)
    return CohortDone(plan.out, tuple(records), time.monotonic() - start)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """Turn SIGTERM into KeyboardInterrupt, and tell what an interruption leaves."""

    def stop(_signum: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _explained(out: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CtbasisError(
            f"{out} cannot be written ({error.strerror or error})",
            expected="a folder that this user may write to, with free space",
            cause="the disk is full or write-protected",
            remedy="free some space and repeat the command, which continues; or choose another --out",
        ) from error


def _prepared(out: str, stack: ExitStack) -> Path:
    """Lock the output, and return a folder for the files of jobs; both end with `stack`, however the run ends."""
    temporary = Path(tempfile.gettempdir())
    if is_s3(out):
        stack.enter_context(watched(temporary))
        stack.enter_context(claimed(out))
        return stack.enter_context(scratch_folder("ctbasis-cohort"))
    place = Path(out)
    place.mkdir(parents=True, exist_ok=True)
    stack.enter_context(watched(place.parent, place, temporary))
    stack.enter_context(locked(place))
    remove_remains(place)
    # On the volume of the output, which must have room for results anyway, and where results are renamed into it.
    work = WorkingFolder(place / "cohort", mode=0o700)
    stack.callback(work.remove)
    work.new.mkdir()
    return work.new


def _outcomes(
    plan: CohortPlan, series: Sequence[PlannedSeries], objects: Mapping[str, ObjectList], folder: Path, *, relearn: bool
) -> dict[str, SeriesRecord]:
    """Return the records of the series by their folders."""
    svd = plan.svd
    if svd.memory == AUTO:
        share = int(free_memory() * FREE_MEMORY_SHARE / plan.parallelism) >> 20
        svd = svd.replaced(memory=f"{max(share, 64)}MiB")
    outcomes: dict[str, SeriesRecord] = {}
    # So that a decoder's or a library's temporary files lie in the working folder too, which is removed.
    with variable("TMPDIR", str(folder)), worker_processes(plan.parallelism, available_cpus(), folder) as processes:
        if plan.basis_from:
            learning = Dispatch(plan, svd, "", folder, processes, request="learn")
            svd = svd.replaced(basis=shared_basis(learning, series, objects, relearn=relearn))
        dispatch = Dispatch(plan, svd, settings_digest(plan, svd.basis), folder, processes)
        for records in dispatch.run(assignments(plan, series, objects, dispatch.settings, outcomes)):
            for record in records:
                outcomes[series_key(record.row)] = replace(record, thumbnail=b"")
                say(_line(record, len(outcomes), len(series)))
    missing = [one for one in series if series_key(one.row) not in outcomes]
    for one in missing:
        reason = f"the run ended after {FETCHES_IN_VAIN} series in a row that could not be fetched"
        outcomes[series_key(one.row)] = SeriesRecord(row=one.row, state=State.NOT_RUN, reason=reason)
    return outcomes


def _line(record: SeriesRecord, count: int, total: int) -> str:
    where = record.folder or f"series {record.row.series}"
    seconds = f" in {record.seconds:.1f} s" if record.state is State.DONE and record.seconds is not None else ""
    reason = f": {record.reason}" if record.reason else ""
    return f"cohort: {count}/{total} {record.state}{seconds}, {where}{reason}"
