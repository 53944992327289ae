"""Timeouts and intervals of the svd step while it launches and follows a job."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Timeouts:
    """Timeouts in seconds. There is none for a queue: waiting for free resources is legitimate, however long it takes.

    Attributes:
        api_server: How long the API server may be unavailable before the step fails; the job then continues.
        image: How long a pod may fail to pull its image; a registry may be unavailable for a while.
        configuration: How long a Secret or ConfigMap may be missing; it may be created a little after the run.
        deletion: How long the deletion of a job that is replaced may take.
        stopping: How long a step that ends tries to delete its job; less than the usual grace period of a pod,
            30 s.
        quota: Interval between attempts to create a job that a full ResourceQuota has refused.
        unseen: Time after which the step logs that the operator has not started to process the application.
        starting: Time after which the step logs that the containers of a pod are not created; a volume may not mount.
        watch: Duration of one watch. An idle step sends one request a watch.
        silence: Time without data after which a watch is treated as broken. API servers send a bookmark every minute.
    """

    api_server: float = 600
    image: float = 120
    configuration: float = 60
    deletion: float = 120
    stopping: float = 25
    quota: float = 60
    unseen: float = 60
    starting: float = 120
    watch: int = 1800
    silence: float = 150
