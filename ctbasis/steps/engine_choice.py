"""Choice of the engine where the parameter `engine` is auto."""

from __future__ import annotations

import os

from ctbasis.choices import ENGINES
from ctbasis.errors import CtbasisError
from ctbasis.printable import say

ENGINE_OF_SCHEME = {"spark": "spark", "yarn": "spark", "k8s": "spark", "tcp": "dask", "tls": "dask", "ray": "ray"}
"""Scheme of a cluster's address, and the engine that runs on such a cluster."""


def choose_engine(mode: str, cluster: str = "") -> str:
    """Choose the engine and log the reason.

    The order is: the engine of the cluster whose address is given; Spark in a Kubernetes pod; on one machine Mahout for
    global mode if Java is installed, else NumPy.

    Args:
        mode: One of `MODES`.
        cluster: Address of a cluster; empty if none is given.

    Raises:
        CtbasisError: The scheme of the address belongs to no engine.
    """
    name, reason = _of_cluster(mode, cluster) or _of_this_machine(mode)
    say(f"engine: auto chose {name} ({ENGINES[name].summary}): {reason}")
    return name


def _of_cluster(mode: str, cluster: str) -> tuple[str, str] | None:
    """Return the engine of the cluster that is there and the reason; None if there is only this machine."""
    if cluster:
        scheme = cluster.partition("://")[0]
        if scheme not in ENGINE_OF_SCHEME:
            raise CtbasisError(
                f"the cluster is {cluster!r}, and engine is auto",
                expected=f"an address that begins with {', '.join(f'{known}://' for known in ENGINE_OF_SCHEME)}",
                remedy="name the engine that the cluster runs by --engine",
            )
        return ENGINE_OF_SCHEME[scheme], f"the cluster's address begins with {scheme}://"
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        # In patch mode Mahout's SVD of the patches gives the same basis as their Gram matrices do, and takes longer.
        name = "spark" if mode == "patch" else "mahout"
        return name, "this is a Kubernetes cluster, whose Spark operator runs it"
    return None


def _of_this_machine(mode: str) -> tuple[str, str]:
    from ctbasis.spark.launch import local_java

    if mode == "patch":
        return "numpy", "on one machine it is the fastest"
    java = local_java()
    if java is None:
        return "numpy", "no Java 17 is here for Spark"
    return "mahout", f"Java {java} is here; numpy is exact, and the faster one on one machine"
