"""`ctbasis submit`, `ctbasis compile` and `ctbasis lint`: the compiled pipeline and a Kubeflow server."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import click
import cloup

from ctbasis.choices import AUTO
from ctbasis.cli.mode import resolve_mode
from ctbasis.cli.options import (
    OUTPUT_FILE,
    OUTPUT_FOLDER,
    PATH,
    SERVER,
    PathType,
    given_parameters,
    grouped,
    mode_option,
    own_option,
    parameter_options,
    verb,
)
from ctbasis.errors import CtbasisError
from ctbasis.parameters import MODE, SOURCE
from ctbasis.plans import Group
from ctbasis.printable import say, show


@verb()
@cloup.argument("source", required=False, help="s3://bucket/prefix, as the server's pods see it.")
@grouped(
    own_option(
        SERVER,
        "--host",
        envvar="CTBASIS_KFP_HOST",
        show_envvar=True,
        required=True,
        essential=True,
        help="Address of the Kubeflow UI.",
    ),
    own_option(
        SERVER,
        "--namespace",
        envvar="CTBASIS_KFP_NAMESPACE",
        show_envvar=True,
        default="",
        essential=True,
        help="Your profile on a server with many users.",
        short="Your profile.",
    ),
    own_option(
        SERVER,
        "--experiment",
        default="ctbasis",
        show_default=True,
        help="Experiment that groups the runs; it is created if it does not exist.",
    ),
    own_option(
        SERVER, "--run-name", default="", help="Name of the run in the UI. By default the pipeline's name and the time."
    ),
    own_option(
        SERVER,
        "--upload-only",
        is_flag=True,
        help="Store the pipeline on the server and run nothing; SOURCE is not needed.",
    ),
    own_option(SERVER, "--no-wait", is_flag=True, essential=True, help="Return once the run is started."),
    own_option(
        SERVER, "--timeout", type=click.FloatRange(min=0), help="Seconds to wait at most; the run itself continues."
    ),
    own_option(
        SERVER,
        "--package",
        type=PathType(exists=True, dir_okay=False, path_type=Path),
        help="A package that `ctbasis compile --out` wrote. By default the committed package.",
    ),
    own_option(
        Group.OUTPUT, "--out", type=OUTPUT_FOLDER, essential=True, help="Folder for metrics.json and figure1.png."
    ),
    mode_option(),
    *parameter_options(but=(SOURCE, MODE), essential=("rank", "deidentify")),
)
def submit(
    source: str | None,
    host: str,
    experiment: str,
    run_name: str,
    namespace: str,
    *,
    upload_only: bool,
    no_wait: bool,
    timeout: float | None,
    out: Path | None,
    package: Path | None,
    mode: str,
    **parameters: Any,
) -> None:
    """Run the pipeline on SOURCE on a Kubeflow server, wait, and fetch its metrics and Figure 1.

    The server's pods read SOURCE, so it must be in a bucket. A bearer token is read only from the environment variable
    CTBASIS_KFP_TOKEN, so that no command line shows it. Ctrl-C ends the waiting, not the run.
    """
    from ctbasis.kubeflow import submit as submission
    from ctbasis.kubeflow.package import PACKAGE
    from ctbasis.kubeflow.server import connect

    if source is None and not upload_only:
        raise click.UsageError("Missing argument 'SOURCE'; only --upload-only needs none.")
    if (upload_only or no_wait) and (out or timeout is not None):
        raise click.UsageError("--out and --timeout belong to a run that is waited for.")
    if not upload_only:
        parameters["mode"] = _resolved_mode(mode, parameters["basis"])
    client = connect(host, namespace=namespace)
    with redirect_stdout(io.StringIO()):  # kfp prints the run's address too, and other addresses
        done = submission.submit(
            host,
            arguments={"source": source, **parameters},
            package=package or PACKAGE,
            experiment=experiment,
            run_name=run_name,
            namespace=namespace,
            upload_only=upload_only,
            wait=False,
        )
    show(done.url)
    if upload_only or no_wait:
        return
    results = submission.finish(client, done.run_id, timeout=timeout, out=out)
    for name, value in results.metrics.items():
        show(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    if out is not None:
        show(f"open {out / 'figure1.png'}")


def _resolved_mode(mode: str, basis: str) -> str:
    """Resolve `--mode` here, since the pipeline on the server knows only `global` and `patch`."""
    resolved = resolve_mode(mode, given_parameters(), basis_mode=_mode_of(basis) if mode == AUTO and basis else "")
    if resolved.line:
        say(resolved.line)
    return resolved.mode


def _mode_of(basis: str) -> str:
    """Return the mode of the run that made `basis`.

    Raises:
        CtbasisError: `basis` cannot be read from this machine.
    """
    from ctbasis.patch.bases import kind_at

    try:
        return kind_at(basis)
    except CtbasisError as error:
        raise CtbasisError(
            f"the mode of --basis {basis} is unknown: {error.found}",
            expected="a basis that this machine can read too, for --mode auto",
            cause="only the server's pods reach it",
            remedy="name the mode of the run that made it, --mode global or --mode patch",
        ) from error


@cloup.command(name="compile")
@click.option("--check", is_flag=True, help="Only report whether the committed package is what the source compiles to.")
@click.option(
    "--out",
    type=OUTPUT_FILE,
    help="File to write for `submit --package`; pipeline/denoise.yaml is then left unchanged.",
)
@click.option(
    "--access-mode",
    type=click.Choice(["ReadWriteOnce", "ReadWriteMany"]),
    help="Access mode of the workspace's volume claim. By default ReadWriteMany. ReadWriteOnce needs --store s3://... "
    "at the run, or a cluster of one node.",
)
@click.option("--storage-class", default="", help="Storage class of the claim. By default the cluster's default class.")
@click.option("--workspace-size", default="", metavar="SIZE", help="Size of the claim. By default 20Gi.")
def compile_(
    *, check: bool, out: Path | None, access_mode: str | None, storage_class: str, workspace_size: str
) -> None:
    """Compile the pipeline to pipeline/denoise.yaml, or with another workspace to another file."""
    from ctbasis.kubeflow import package

    other_claim = access_mode or storage_class or workspace_size
    if check and (out or other_claim):
        raise click.UsageError("--check concerns the committed package and takes no other option.")
    if other_claim and out is None:
        raise click.UsageError("Another workspace makes another package: name its file with --out.")
    if check:
        package.check()
    elif out is not None:
        package.write(out, package.Claim(access_mode or "", storage_class, workspace_size))
    else:
        package.write()
    show(f"{out or package.PACKAGE.name} is {'up to date' if check else 'written'}")


@cloup.command()
@click.argument("files", nargs=-1, type=PATH)
def lint(files: tuple[Path, ...]) -> None:
    """Check compiled packages and Kubernetes manifests. Without FILES, check all that are committed."""
    from ctbasis.kubeflow.lint import committed
    from ctbasis.kubeflow.lint import lint as faults_in

    paths = list(files) or committed()
    faults = faults_in(paths)
    for fault in faults:
        show(str(fault))
    if faults:
        raise CtbasisError(f"{len(faults)} faults in {len(paths)} files", expected="none")
    show(f"{len(paths)} files, no fault")
