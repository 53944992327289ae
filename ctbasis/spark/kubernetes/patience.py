"""How long what is waited for on a cluster."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Patience:
    """Seconds after which a wait becomes an error. A queue has none: waiting for room is legal however long it takes.

    Attributes:
        api_server: The API server may be away; then the step fails and the application stays.
        image: An image may fail to be pulled; a registry may be away for a while.
        configuration: A Secret or ConfigMap may be missing; it may be created a little later than the run.
        deletion: An application that is replaced may take to go away.
        stopping: Deleting may be tried after SIGTERM; less than a pod's usual grace period of 30 s.
        quota: Between two tries to submit a driver for which a full ResourceQuota has no room.
        unseen: Until a line says that the operator has not taken the application up.
        starting: Until a line says that a pod's containers are not created; a volume may not mount.
        watch: One watch is asked to last; all that waiting costs is a request per watch and that long.
        silence: Nothing may come over a watch before it is taken for dead. API servers send a bookmark a minute.
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
