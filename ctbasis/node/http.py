"""The HTTP server of a node: STOW-RS, jobs and their files, health, and metrics."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from ctbasis.node.dicomweb import jobs_router, stow_router
from ctbasis.node.job_files import KeptFiles, files_router
from ctbasis.node.queue import JobState
from ctbasis.web.application import application
from ctbasis.web.body import Limits
from ctbasis.web.metrics import Metrics
from ctbasis.web.server import HttpServer

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from prometheus_client.metrics_core import Metric

    from ctbasis.node.inbox import Inbox
    from ctbasis.node.listening import HttpListening
    from ctbasis.node.outgoing import Outgoing
    from ctbasis.node.queue import Queue
    from ctbasis.node.stow import Studies
    from ctbasis.traces import Traces


def http_server(
    listening: HttpListening,
    *,
    inbox: Inbox,
    queue: Queue,
    outgoing: Outgoing,
    studies: Studies,
    results: Path,
    traces: Traces | None = None,
) -> HttpServer:
    """Return the HTTP server of a node.

    Args:
        listening: How it listens.
        inbox: Where instances go.
        queue: What was received and is to be denoised.
        outgoing: What is to be sent.
        studies: Studies of requests in work.
        results: Folder of the results of jobs.
        traces: Traces of its requests; None records none.

    Raises:
        CtbasisError: The address is in use or not of this machine, or the TLS files cannot be used.
    """
    metrics = Metrics()
    metrics.registry.register(NodeMetrics(queue, outgoing))
    routers = [
        stow_router(inbox, studies, Limits(listening.body_bytes)),
        jobs_router(queue, outgoing),
        files_router(KeptFiles(queue, inbox.folder, results)),
    ]
    made = application("ctbasis node", routers=routers, token=listening.token, metrics=metrics, traces=traces)
    context = listening.tls.context() if listening.tls is not None else None
    return HttpServer(made, host=listening.host, port=listening.port, context=context)


class NodeMetrics(Collector):
    """Metrics of a node, read from its queue when they are asked for.

    Args:
        queue: What was received and is to be denoised.
        outgoing: What is to be sent.
    """

    def __init__(self, queue: Queue, outgoing: Outgoing) -> None:
        self._queue = queue
        self._outgoing = outgoing

    def collect(self) -> Iterable[Metric]:
        """Return the metrics."""
        jobs = GaugeMetricFamily("ctbasis_jobs", "Series by the state of their job", labels=["state"])
        counts = self._queue.counts()
        for state in JobState:
            jobs.add_metric([state], counts.get(state, 0))
        deliveries = GaugeMetricFamily("ctbasis_deliveries", "Instances to be sent, by state", labels=["state"])
        sending = self._outgoing.counts()
        for name in ("waiting", "sending", "sent", "failed"):
            deliveries.add_metric([name], sending.get(name, 0))
        instances, size = self._queue.received()
        held = GaugeMetricFamily("ctbasis_instances_held", "Received instances on the disk", value=instances)
        held_bytes = GaugeMetricFamily("ctbasis_instances_held_bytes", "Bytes of these instances", value=size)
        return [jobs, deliveries, held, held_bytes]
