"""`ctbasis compile` and `ctbasis lint`: the compiled pipelines, and whether manifests and a cluster fit it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
import cloup

from ctbasis.cli.cluster_options import cluster_options, cluster_settings
from ctbasis.cli.options import OUTPUT_FILE, PATH, given_parameters
from ctbasis.errors import CtbasisError
from ctbasis.printable import show

if TYPE_CHECKING:
    from pathlib import Path


@cloup.command(name="compile")
@click.option(
    "--check", is_flag=True, help="Only report whether the committed packages are what their sources compile to."
)
@click.option(
    "--out",
    type=OUTPUT_FILE,
    help="File to write for `submit --package`; the committed packages are then left unchanged.",
)
@click.option(
    "--pipeline",
    type=click.Choice(["denoise", "cohort"]),
    default="denoise",
    show_default=True,
    help="With --out: the pipeline of one source, or that of all series of a source.",
)
@cluster_options
def compile_(*, check: bool, out: Path | None, pipeline: str, **settings: Any) -> None:
    """Compile the pipelines to the folder pipeline/, or one with the settings of a cluster to another file."""
    from ctbasis.kubeflow import package

    for_cluster = cluster_settings(**settings)
    if check and (out or for_cluster):
        raise click.UsageError("--check concerns the committed packages and takes no other option.")
    if for_cluster and out is None:
        raise click.UsageError("Settings of a cluster make another package: name its file with --out.")
    if "pipeline" in given_parameters() and out is None:
        raise click.UsageError("--pipeline belongs to --out; without it, both pipelines are compiled.")
    if out is not None:
        package.write(out, for_cluster, pipeline=pipeline)
        show(f"{out} is written")
        return
    for name, path in package.PACKAGES.items():
        (package.check if check else package.write)(path, pipeline=name)
        show(f"{path.name} is {'up to date' if check else 'written'}")


@cloup.command()
@click.argument("files", nargs=-1, type=PATH)
@click.option(
    "--cluster",
    is_flag=True,
    help="Then ask the cluster of KUBECONFIG whether what the packages among FILES need is there: nodes, storage, "
    "Spark operator, rights, Secrets, images. The cluster is only read.",
)
@click.option(
    "--namespace",
    default="kubeflow",
    show_default=True,
    help="With --cluster: the namespace of the runs, your profile.",
)
@click.option(
    "--account",
    default="",
    help="With --cluster: the service account of the runs. By default default-editor if the namespace has it, else "
    "pipeline-runner.",
)
def lint(files: tuple[Path, ...], *, cluster: bool, namespace: str, account: str) -> None:
    """Check compiled packages and Kubernetes manifests, or what a cluster lacks. Without FILES, check the committed."""
    from ctbasis.kubeflow.lint import committed
    from ctbasis.kubeflow.lint import lint as faults_in

    if not cluster and given_parameters() & {"namespace", "account"}:
        raise click.UsageError("--namespace and --account belong to --cluster.")
    paths = list(files) or committed()
    faults = faults_in(paths)
    for fault in faults:
        show(str(fault))
    if faults:
        raise CtbasisError(f"{len(faults)} faults in {len(paths)} files", expected="none")
    show(f"{len(paths)} files, no fault")
    if cluster:
        _lint_cluster(paths, namespace, account)


def _lint_cluster(paths: list[Path], namespace: str, account: str) -> None:
    """Print what the cluster of KUBECONFIG says about the needs of the packages among `paths`.

    Raises:
        CtbasisError: No file is a package, the cluster does not answer, or something is missing.
    """
    from ctbasis.jobs.api_server import ApiServer
    from ctbasis.kubeflow.cluster_lint import Level, check_cluster
    from ctbasis.kubeflow.lint import packages

    found = packages(paths)
    if not found:
        raise CtbasisError(
            "none of the files is a compiled package",
            expected="a package",
            remedy="name one that `ctbasis compile` wrote",
        )
    server = ApiServer.connect()
    findings = [one for path in found for one in check_cluster(server, path, namespace=namespace, account=account)]
    for finding in dict.fromkeys(findings):
        for line in str(finding).splitlines():
            show(line)
    missing = len({one for one in findings if one.level is Level.MISSING})
    if missing:
        raise CtbasisError(
            f"missing in the cluster, namespace {namespace}: {missing} thing{'s' if missing > 1 else ''}",
            expected="none",
            remedy="run the command below each line that begins with `missing`",
        )
