"""The SparkApplication's cluster back end: create it, follow it to its end, and leave nothing behind.

How the step ends, and what becomes of the application:

| the step | the application |
| --- | --- |
| succeeds | is COMPLETED; its timeToLiveSeconds removes it |
| fails, because the application FAILED or was deleted | stays, to be looked at, until its timeToLiveSeconds |
| fails, because a pod cannot start, the job refused, a right is missing, or by a defect of this program | is deleted |
| fails, because the API server was away for too long | goes on; the step's retry adopts it |
| is told to stop (SIGTERM, SIGINT), as when the run is cancelled | is deleted |
| is killed (SIGKILL, its node is lost) | goes on; the step's retry adopts it |
| is deleted with its run | is deleted: it belongs to what owns the step's pod |

What goes on and finds no retry ends by itself, and its timeToLiveSeconds removes it.
"""

from __future__ import annotations

import signal
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NoReturn

from ctbasis.spark.kubernetes import applications
from ctbasis.spark.kubernetes.api_server import ApiServer
from ctbasis.spark.kubernetes.applications import APPEARING_SECONDS, Applications
from ctbasis.spark.kubernetes.follow import Follower
from ctbasis.spark.kubernetes.outage import ApplicationStaysError, log
from ctbasis.spark.kubernetes.owner import run_owner
from ctbasis.spark.kubernetes.quota import QuotaFullError
from ctbasis.spark.kubernetes.timeouts import Timeouts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ctbasis.spark.application import SparkApplication

TIMEOUTS = Timeouts()


class Stopped(BaseException):
    """This process was told to stop."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signum)


def template(*, server: ApiServer | None = None, timeouts: Timeouts = TIMEOUTS) -> SparkApplication:
    """Return the SparkApplication that runs of this namespace are made of: the cluster's own or the image's file.

    Args:
        server: Where; left out, the cluster of this pod or of KUBECONFIG.
        timeouts: How long what is waited for.

    Raises:
        CtbasisError: There is no cluster, or the template is not valid.
    """
    return applications.template(server or ApiServer.connect(), timeouts)


def launch(application: SparkApplication, *, server: ApiServer | None = None, timeouts: Timeouts = TIMEOUTS) -> None:
    """Create `application`, or adopt the one of its name that an earlier try of this step created, and follow it.

    Its state changes, what its pods wait for and its driver's log go to standard error.

    Args:
        application: Named after its run.
        server: Where; left out, the cluster of this pod or of KUBECONFIG.
        timeouts: How long what is waited for.

    Raises:
        CtbasisError: The application failed, was deleted by someone else, or may not be created; the text says why.
        SystemExit: The process was told to stop; the application is deleted.
    """
    server = server or ApiServer.connect()
    owner = run_owner(server, timeouts)
    if owner is not None:
        application = application.owned_by(owner)
    own = Applications(server, timeouts)
    manifest = application.to_manifest()
    with _raise_on_stop():
        try:
            _run_when_quota_allows(server, own, manifest, timeouts)
        except ApplicationStaysError:
            raise
        except Stopped as stop:
            log(f"spark application {application.name}: deleting it, the step was told to stop")
            own.discard(manifest, appearing=APPEARING_SECONDS)
            sys.exit(128 + stop.signum)
        except Exception:
            _ignore_signals()
            own.discard(manifest)
            raise


def _run_when_quota_allows(server: ApiServer, own: Applications, manifest: dict[str, Any], timeouts: Timeouts) -> None:
    """Create and follow the application, anew as long as a full ResourceQuota has no room for it or its driver."""
    waits_for = ""
    while True:
        try:
            return Follower(server, own.create_or_adopt(manifest), timeouts).run()
        except QuotaFullError as full:
            # Nobody tells when there is room, and to watch the quotas is a right that the step does not have.
            if str(full) != waits_for:
                waits_for = str(full)
                log(f"waiting in the queue of a full quota, tried every {timeouts.quota:.0f} s: {waits_for}")
            time.sleep(timeouts.quota)


SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def _raise_on_stop() -> Iterator[None]:
    """Raise `Stopped` where this process is told to stop, once: what follows the first call hears no second one."""

    def stop(signum: int, _frame: object) -> NoReturn:
        _ignore_signals()
        raise Stopped(signum)

    before = {signum: signal.signal(signum, stop) for signum in SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _ignore_signals() -> None:
    """Hear no call to stop: the application is being deleted already."""
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
