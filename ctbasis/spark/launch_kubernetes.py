"""Launch of a SparkApplication on Kubernetes: create it, follow it to its end, and delete what is no longer needed.

How the step ends, and what happens to the application:

| the step | the application |
| --- | --- |
| succeeds | is COMPLETED, and is deleted after its timeToLiveSeconds |
| fails because the application FAILED or was deleted | stays for inspection until its timeToLiveSeconds |
| fails because a pod cannot start, the driver refuses its input, a right is missing, or of a bug | is deleted |
| fails because the API server was unavailable for too long | continues; the retry of the step adopts it |
| receives SIGTERM or SIGINT, as when the run is cancelled | is deleted |
| is killed (SIGKILL, node lost) | continues; the retry of the step adopts it |
| is deleted with its run | is deleted, because the owner of the step's pod owns it |

An application that continues and is not adopted ends by itself, and is deleted after its timeToLiveSeconds.
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


class StopRequest(BaseException):
    """This process received SIGTERM or SIGINT."""

    def __init__(self, signum: int) -> None:
        self.signum = signum
        super().__init__(signum)


def template(*, server: ApiServer | None = None, timeouts: Timeouts = TIMEOUTS) -> SparkApplication:
    """Return the template of the runs' SparkApplications: the one in the namespace, else the file in the image.

    Args:
        server: API server; by default that of this pod's cluster, or of KUBECONFIG.
        timeouts: Timeouts and intervals.

    Raises:
        CtbasisError: There is no cluster, or the template is not valid.
    """
    return applications.template(server or ApiServer.connect(), timeouts)


def launch(application: SparkApplication, *, server: ApiServer | None = None, timeouts: Timeouts = TIMEOUTS) -> None:
    """Create `application`, or adopt the one that an earlier attempt of this step created, and follow it to its end.

    Changes of its state, the reasons why its pods do not start, and the log of its driver go to standard error.

    Args:
        application: The application; its name follows from the run.
        server: API server; by default that of this pod's cluster, or of KUBECONFIG.
        timeouts: Timeouts and intervals.

    Raises:
        CtbasisError: The application failed, was deleted by somebody else, or may not be created; with the reason.
        SystemExit: This process received SIGTERM or SIGINT; the application is deleted.
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
        except StopRequest as stop:
            log(f"spark application {application.name}: deleting it, because the step received a signal to stop")
            own.discard(manifest, appearing=APPEARING_SECONDS)
            sys.exit(128 + stop.signum)
        except Exception:
            _ignore_signals()
            own.discard(manifest)
            raise


def _run_when_quota_allows(server: ApiServer, own: Applications, manifest: dict[str, Any], timeouts: Timeouts) -> None:
    """Create and follow the application; again while a full ResourceQuota has no room for it or its driver."""
    logged = ""
    while True:
        try:
            return Follower(server, own.create_or_adopt(manifest), timeouts).run()
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
    """Ignore SIGTERM and SIGINT, because the application is being deleted already."""
    for signum in SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
