"""Launch of a job on Kubernetes: create it, follow it to its end, and delete what is no longer needed.

The table shows what happens to the job on a Kubeflow server with its stock settings. There, Argo starts a step
again whose pod was deleted, and no step whose container failed. The exit handler is the cleanup step; it runs once,
after a run that succeeded or failed, but not after a run that was deleted or retried. After a run that was terminated,
Argo 4.0 starts it, but fails it if one of its pods is not running within about ten seconds.

| the step | Argo | the job |
| --- | --- | --- |
| succeeds | runs the next step | has succeeded, and stays until its time to live |
| fails because the job failed or was deleted | ends the run | stays until its time to live |
| fails because a pod cannot start, the driver refuses its input, or of a bug | ends the run | is deleted by the step |
| fails because the API server was unavailable for too long | ends the run | continues; the exit handler deletes it |
| is killed (SIGKILL), as for memory | ends the run | continues; the exit handler deletes it |
| receives SIGTERM, because the run is terminated | ends the run | is deleted by the step |
| receives SIGTERM, because its pod is deleted or drained | starts it again | continues; the second attempt adopts it |
| is lost with its node | starts it again | continues; the second attempt adopts it |
| is deleted with its run | | is deleted, because the Workflow owns it |
| is retried with its run, after the job failed | starts it again | is replaced |
| is retried with its run, after the exit handler deleted the job | starts it again | is created anew |
| is retried with its run, and receives SIGTERM | as above | as above |
| is retried with its run, and is killed (SIGKILL) | ends the run | continues until it ends or the run is deleted |

In a process that is no step of a run, such as `ctbasis factor` in a pod, nothing follows either: SIGTERM and SIGINT
delete the job.
"""

from __future__ import annotations

import signal
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from ctbasis.jobs import resources
from ctbasis.jobs.api_server import ApiServer
from ctbasis.jobs.follow import Follower
from ctbasis.jobs.outage import JobStaysError, log
from ctbasis.jobs.owner import run_owner
from ctbasis.jobs.pod import pod_name
from ctbasis.jobs.quota import QuotaFullError
from ctbasis.jobs.resources import APPEARING_SECONDS, Jobs
from ctbasis.jobs.step_pod import is_being_deleted
from ctbasis.jobs.timeouts import Timeouts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ctbasis.jobs.job import Job

J = TypeVar("J", bound="Job")

TIMEOUTS = Timeouts()


class StopRequest(BaseException):
    """This process received SIGTERM or SIGINT."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signum)


def template(kind: type[J], *, server: ApiServer | None = None, timeouts: Timeouts = TIMEOUTS) -> J:
    """Return the template of the runs' jobs: the one in the namespace, else the file in the image.

    Args:
        kind: Kind of the jobs.
        server: API server; by default that of this pod's cluster, or of KUBECONFIG.
        timeouts: Timeouts and intervals.

    Raises:
        CtbasisError: There is no cluster, the operator is not installed, or the template is not valid.
    """
    return resources.template(kind, server or ApiServer.connect(), timeouts)


def launch(
    job: Job,
    *,
    server: ApiServer | None = None,
    timeouts: Timeouts = TIMEOUTS,
    keep: Callable[[str], object] | None = None,
    delete_on_stop: bool = False,
) -> dict[str, Any]:
    """Create `job`, or adopt the one that an earlier attempt of this step created, and follow it to its end.

    Changes of its state, the reasons why its pods do not start, and the log of its driver go to standard error.

    Args:
        job: The job; its name follows from the run.
        server: API server; by default that of this pod's cluster, or of KUBECONFIG.
        timeouts: Timeouts and intervals.
        keep: Called with each line of the driver's log besides; None for nothing.
        delete_on_stop: Delete the job when this process receives SIGTERM or SIGINT, also in a step of a run,
            for a pipeline that has no exit handler to do so.

    Returns:
        The job once it has succeeded, as the API server describes it.

    Raises:
        CtbasisError: The job failed, was deleted by somebody else, or may not be created; with the reason.
        SystemExit: This process received SIGTERM or SIGINT. In a step of a run whose pod is being deleted, the
            job continues for the next attempt; elsewhere it is deleted.
    """
    server = server or ApiServer.connect()
    owner = run_owner(server, timeouts)
    if owner is not None:
        job = job.owned_by(owner)
    own = Jobs(server, type(job), timeouts)
    manifest = job.to_manifest()
    with _raise_on_stop():
        try:
            return _run_when_quota_allows(server, own, type(job), manifest, timeouts, keep)
        except JobStaysError:
            raise
        except StopRequest as stop:
            if owner is not None and not delete_on_stop and is_being_deleted(pod_name(), server):
                log(f"{job.title} {job.name}: continues; the pod of this step is being deleted")
                log("  the next attempt of the step adopts it, or the exit handler of the run deletes it")
            else:
                log(f"{job.title} {job.name}: deleting it, because the step received a signal to stop")
                own.discard(manifest, appearing=APPEARING_SECONDS)
            sys.exit(128 + stop.signum)
        except Exception:
            _ignore_signals()
            own.discard(manifest)
            raise


def end(kind: type[Job], name: str, *, server: ApiServer | None = None, timeouts: Timeouts = TIMEOUTS) -> bool:
    """Delete the job of a run if it has not ended, and wait until it and its pods are gone.

    Args:
        kind: Kind of the job.
        name: Name of the job.
        server: API server; by default that of this pod's cluster, or of KUBECONFIG.
        timeouts: Timeouts and intervals.

    Returns:
        Whether there was a job to delete.

    Raises:
        CtbasisError: The job or a pod of it still exists, may not be deleted, or the API server cannot be
            reached.
    """
    return Jobs(server or ApiServer.connect(), kind, timeouts).end(name)


def _run_when_quota_allows(
    server: ApiServer,
    own: Jobs,
    kind: type[Job],
    manifest: dict[str, Any],
    timeouts: Timeouts,
    keep: Callable[[str], object] | None,
) -> dict[str, Any]:
    """Create and follow the job; again while a full ResourceQuota has no room for it or its driver."""
    logged = ""
    while True:
        try:
            return Follower(server, kind, own.create_or_adopt(manifest), timeouts, keep).run()
        except QuotaFullError as full:
            # Kubernetes sends no event when there is room, and the step has no right to watch the quotas.
            if str(full) != logged:
                logged = str(full)
                log(f"waiting for room in a full quota, trying again every {timeouts.quota:.0f} s: {logged}")
            time.sleep(timeouts.quota)


SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def _raise_on_stop() -> Iterator[None]:
    """Raise `StopRequest` at the first SIGTERM or SIGINT, and ignore further ones."""

    def stop(signum: int, _frame: object) -> NoReturn:
        _ignore_signals()
        raise StopRequest(signum)

    before = {signum: signal.signal(signum, stop) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _ignore_signals() -> None:
    """Ignore SIGTERM and SIGINT, because the step is ending already."""
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
