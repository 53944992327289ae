"""`ctbasis sweep`: removal of what runs have left on S3."""

from __future__ import annotations

from typing import TYPE_CHECKING

import cloup

from ctbasis.cli.options import grouped, own_option
from ctbasis.cli.server_options import Duration, server_options
from ctbasis.plans import Group
from ctbasis.printable import show

if TYPE_CHECKING:
    from datetime import timedelta


@cloup.command()
@cloup.argument("prefix", help="s3://bucket/prefix, the --store of the runs.")
@grouped(
    *server_options(
        required=False,
        host_help="Address of Kubeflow Pipelines. Without it, the time of the last write decides.",
    ),
    own_option(
        Group.OUTPUT,
        "--older-than",
        type=Duration(),
        default="3d",
        show_default=True,
        help="Keep the stores of a run for this time after its end, such as 30m, 24h or 7d.",
    ),
    own_option(Group.OUTPUT, "--dry-run", is_flag=True, help="Only list what would be removed."),
)
def sweep(prefix: str, host: str, namespace: str, older_than: timedelta, *, dry_run: bool) -> None:
    """Remove the stores that runs have left below PREFIX on S3, once nobody can retry the runs.

    Only folders that ctbasis has marked as those of a run are touched, and in them only its stores. All runs below
    PREFIX must be runs of this one server: a run that the server does not have counts as deleted. A bearer token is
    read only from CTBASIS_KFP_TOKEN, or in a pod from the file that KF_PIPELINES_SA_TOKEN_PATH names.
    """
    from ctbasis.kubeflow import sweep as sweeping
    from ctbasis.kubeflow.server import connect

    client = connect(host, namespace=namespace) if host else None
    count = removed = 0
    for decision in sweeping.sweep(prefix, older_than=older_than, client=client, dry_run=dry_run):
        show(decision)
        count += 1
        removed += decision.remove
    show(f"{count} folders of runs, {removed} {'to remove' if dry_run else 'removed'}")
