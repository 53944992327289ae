"""Options of `compile` and `submit` by which a package fits a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ctbasis.cli.options import SERVER, Declared, F, own_option
from ctbasis.kubeflow.cluster_settings import PULL_POLICIES, Claim, ClusterSettings
from ctbasis.kubeflow.sizes import DEFAULT_SIZE, SIZES, SPARK_STEP, parse_requests

if TYPE_CHECKING:
    from collections.abc import Sequence


def image_options() -> list[Declared]:
    """Declare the options that name the image of the steps, and how a cluster pulls it."""
    return [
        own_option(
            SERVER,
            "--steps-image",
            default="",
            metavar="NAME",
            help="Image of the steps, with a tag or a digest, such as registry.example.com/ctbasis/steps@sha256:... By "
            "default the image of the package.",
        ),
        own_option(
            SERVER,
            "--pull-secret",
            "pull_secrets",
            multiple=True,
            metavar="NAME",
            help="Secret of the runs' namespace by which nodes pull that image from a private registry; may be given "
            "several times.",
        ),
        own_option(
            SERVER,
            "--pull-policy",
            type=click.Choice(PULL_POLICIES),
            help="When nodes pull that image. By default Kubernetes' own: IfNotPresent for a version or a digest.",
        ),
    ]


def cluster_options(function: F) -> F:
    """Decorate a command with the options of every setting of `ClusterSettings`."""
    options = [
        *(declared.option for declared in image_options()),
        click.option(
            "--access-mode",
            type=click.Choice(["ReadWriteOnce", "ReadWriteMany"]),
            help="Access mode of the workspace's volume claim. By default ReadWriteMany. ReadWriteOnce needs "
            "--store s3://... at the run, or a cluster of one node.",
        ),
        click.option(
            "--storage-class", default="", help="Storage class of the claim. By default the cluster's default class."
        ),
        click.option("--workspace-size", default="", metavar="SIZE", help="Size of the claim. By default 20Gi."),
        click.option(
            "--size",
            type=click.Choice(list(SIZES)),
            help=f"CPU and memory of all steps; small fits nodes of 2 CPUs and 4 GiB. By default {DEFAULT_SIZE}.",
        ),
        click.option(
            "--requests",
            multiple=True,
            metavar="STEP:cpu=QUANTITY,memory=QUANTITY",
            help="What a step requests in place of that, such as matrix:cpu=500m,memory=8Gi; may be given several "
            f"times. {SPARK_STEP} stands for the Spark driver and each executor.",
        ),
        click.option(
            "--docs-url",
            default="",
            metavar="URL",
            help="Where your users read this documentation; the pipeline's description in the UI ends with it.",
        ),
        click.option(
            "--parallelism",
            type=click.IntRange(1),
            help="Pipeline of cohorts: jobs at the same time, each a series or a group. By default 3.",
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def cluster_settings(
    *,
    steps_image: str = "",
    pull_secrets: Sequence[str] = (),
    pull_policy: str | None = None,
    access_mode: str | None = None,
    storage_class: str = "",
    workspace_size: str = "",
    size: str | None = None,
    requests: Sequence[str] = (),
    docs_url: str = "",
    parallelism: int | None = None,
) -> ClusterSettings:
    """Return the settings that the options of a command give.

    Raises:
        CtbasisError: A value is refused.
    """
    claim = Claim(access_mode or "", storage_class, workspace_size)
    return ClusterSettings(
        steps_image,
        tuple(pull_secrets),
        pull_policy or "",
        claim,
        size or "",
        parse_requests(requests),
        docs_url,
        parallelism or 0,
    )
