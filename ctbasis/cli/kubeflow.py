"""`ctbasis submit` and `results`: runs on a Kubeflow server."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import cloup

from ctbasis.choices import AUTO
from ctbasis.cli.cluster_options import cluster_settings, image_options
from ctbasis.cli.cohort_submission import cohort_arguments, cohort_options, show_cohort
from ctbasis.cli.mode import resolve_mode
from ctbasis.cli.options import (
    OUTPUT_FOLDER,
    SERVER,
    PathType,
    given_parameters,
    grouped,
    mode_option,
    own_option,
    parameter_options,
    verb,
)
from ctbasis.cli.server_options import Duration, server_options
from ctbasis.errors import CtbasisError
from ctbasis.parameters import MODE, SOURCE
from ctbasis.plans import Group
from ctbasis.printable import say, show

if TYPE_CHECKING:
    from datetime import timedelta

    from ctbasis.kubeflow.artifacts import Results


def _out_option() -> Any:
    return own_option(
        Group.OUTPUT, "--out", type=OUTPUT_FOLDER, essential=True, help="Folder for metrics.json and figure1.png."
    )


@verb()
@cloup.argument("source", required=False, help="s3://bucket/prefix, as the server's pods see it.")
@grouped(
    *server_options(),
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
    own_option(
        SERVER,
        "--new",
        is_flag=True,
        help="Start a run for each folder directly below SOURCE that is new: the experiment has no run of it, or "
        "objects were added since its last run, and the newest object is at least 10 minutes old. Does not wait for "
        "the runs; let a schedule repeat the command.",
        short="One run for each new folder below SOURCE.",
    ),
    own_option(
        SERVER,
        "--newer-than",
        type=Duration(),
        default="7d",
        show_default=True,
        help="With --new, leave out folders to which nothing was added for this time, such as 12h or 7d.",
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
    *image_options(),
    _out_option(),
    *cohort_options(),
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
    new: bool,
    newer_than: timedelta,
    no_wait: bool,
    timeout: float | None,
    out: Path | None,
    package: Path | None,
    steps_image: str,
    pull_secrets: tuple[str, ...],
    pull_policy: str | None,
    mode: str,
    cohort: str,
    **parameters: Any,
) -> None:
    """Run the pipeline on SOURCE on a Kubeflow server, wait, and fetch its metrics and Figure 1.

    The server's pods read SOURCE, so it must be in a bucket. A bearer token is read only from the environment variable
    CTBASIS_KFP_TOKEN, so that no command line shows it. Ctrl-C ends the waiting, not the run.
    """
    from ctbasis.kubeflow import submit as submission
    from ctbasis.kubeflow.artifacts import require_results
    from ctbasis.kubeflow.follow import finish
    from ctbasis.kubeflow.package import PACKAGES, adapted
    from ctbasis.kubeflow.server import connect

    if source is None and not upload_only:
        raise click.UsageError("Missing argument 'SOURCE'; only --upload-only needs none.")
    if (upload_only or no_wait or new) and (out or timeout is not None):
        raise click.UsageError("--out and --timeout belong to a run that is waited for.")
    if cohort and (new or upload_only or out):
        raise click.UsageError("--cohort goes neither with --new, nor with --upload-only, nor with --out.")
    if new and (upload_only or run_name):
        raise click.UsageError("--new starts several runs, so it goes neither with --upload-only nor with --run-name.")
    parameters = {**cohort_arguments(cohort, parameters), "mode": mode}
    if not upload_only:
        parameters["mode"] = _resolved_mode(mode, parameters["basis"])
    settings = cluster_settings(steps_image=steps_image, pull_secrets=pull_secrets, pull_policy=pull_policy)
    client = connect(host, namespace=namespace)
    if not (upload_only or no_wait or new):
        require_results(client)
    with adapted(package or PACKAGES["cohort" if cohort else "denoise"], settings) as chosen:
        if new and source is not None:
            _submit_new(client, source, chosen, parameters, experiment=experiment, newer_than=newer_than)
            return
        done = submission.submit(
            host,
            arguments={"source": source, **parameters},
            package=chosen,
            experiment=experiment,
            run_name=run_name,
            namespace=namespace,
            upload_only=upload_only,
            wait=False,
        )
    show(done.url)
    if upload_only or no_wait:
        return
    if cohort:
        show_cohort(client, done.run_id, cohort, timeout=timeout)
        return
    _show_results(finish(client, done.run_id, timeout=timeout, out=out), out)


def _submit_new(
    client: Any,
    prefix: str,
    package: Path,
    parameters: dict[str, Any],
    *,
    experiment: str,
    newer_than: timedelta,
) -> None:
    """Start a run of each new folder below `prefix`, and print the addresses of the runs and a count of the folders."""
    from ctbasis.kubeflow.arrivals import STATES
    from ctbasis.kubeflow.follow import run_url
    from ctbasis.kubeflow.package import check_arguments, read_package
    from ctbasis.kubeflow.submit import start_new

    check_arguments(read_package(package), {"source": prefix, **parameters})
    counts: Counter[str] = Counter()
    for arrival, run_id in start_new(
        client, prefix, package, arguments=parameters, experiment=experiment, newer_than=newer_than
    ):
        counts[arrival.state] += 1
        if run_id:
            show(f"{run_url(client, run_id)} {arrival.source}")
    say(f"{counts.total()} folders below {prefix}: " + ", ".join(f"{counts[state]} {state}" for state in STATES))


def _show_results(results: Results, out: Path | None) -> None:
    from ctbasis.kubeflow.artifacts import metric_text

    for name, value in results.metrics.items():
        show(f"{name}: {metric_text(value)}")
    if out is not None:
        show(f"open {out / 'figure1.png'}")


@cloup.command()
@cloup.argument("run", help="Id of the run, or the address of its page in the UI.")
@grouped(*server_options(), _out_option())
def results(run: str, host: str, namespace: str, out: Path | None) -> None:
    """Fetch the metrics and Figure 1 of a RUN that is over from a Kubeflow server.

    A failed run ends with exit code 2 and the reason of the step that failed. A bearer token is read only from the
    environment variable CTBASIS_KFP_TOKEN.
    """
    from ctbasis.kubeflow.follow import finished_results
    from ctbasis.kubeflow.runs import run_id_of
    from ctbasis.kubeflow.server import connect

    run_id = run_id_of(run)
    _show_results(finished_results(connect(host, namespace=namespace), run_id, out=out), out)


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
