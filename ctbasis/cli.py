"""The console command `ctbasis`."""

from __future__ import annotations

import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ctbasis.errors import CtbasisError
from ctbasis.kubeflow.images import VERSION
from ctbasis.parameters import (
    BASIS,
    CLUSTER,
    COMPRESS,
    DEIDENTIFY,
    METHOD,
    MODE,
    OVERSAMPLE,
    PARAMETERS,
    POWER_ITERS,
    RETAIN,
    SEED,
    SOURCE,
    Parameter,
    check,
)

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., Any]")

PATH = click.Path(path_type=Path)

SCORES = {"rmse_body": "HU", "rmse_lung": "HU", "psnr": "dB", "ssim": ""}
"""What the demo says of a series whose truth is known, and the units."""


class Refusing(click.Group):
    """A group whose verbs end with a readable text and exit code 2 where the input is refused."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; turn a `CtbasisError` into its text."""
        try:
            return super().invoke(ctx)
        except CtbasisError as error:
            click.echo(f"ctbasis: error: {error}", err=True)
            sys.exit(2)
        except KeyboardInterrupt as interrupt:
            then = str(interrupt) or "nothing half-written is left, run it again"
            click.echo(f"ctbasis: interrupted; {then}", err=True)
            sys.exit(130)


def options_of(*parameters: Parameter[Any]) -> Callable[[F], F]:
    """Return what gives a verb one option for each of these parameters of the pipeline."""

    def decorate(verb: F) -> F:
        for parameter in reversed(parameters):
            # What is on by default is turned off by its opposite.
            negated = f"{parameter.flag}/--no-{parameter.flag.removeprefix('--')}"
            verb = click.option(
                negated if parameter.default is True else parameter.flag,
                parameter.name,
                is_flag=parameter.type is bool,
                type=click.Choice(parameter.choices) if parameter.choices else parameter.type,
                default=parameter.default,
                show_default=parameter.default not in {"", False},
                help=parameter.help,
                metavar=parameter.metavar,
            )(verb)
        return verb

    return decorate


def options_but(*given: Parameter[Any]) -> Callable[[F], F]:
    """Return what gives a verb one option for every parameter of the pipeline but those `given` otherwise."""
    return options_of(*(parameter for parameter in PARAMETERS if parameter not in given))


pipeline_options = options_but(SOURCE)


def absolute(place: str) -> str:
    """Return a folder by its whole path, for a process that is elsewhere; a URI, or nothing, as it is."""
    return place if "://" in place or not place else str(Path(place).resolve())


@click.group(cls=Refusing, context_settings={"max_content_width": 110})
@click.version_option(VERSION)
def main() -> None:
    """Denoise low-dose chest CT by a distributed stochastic SVD, on a laptop or on Kubeflow."""


@main.command()
@click.argument("source")
@click.option("--out", type=PATH, required=True, help="Folder to make: DICOM, basis, pictures, page and numbers.")
@pipeline_options
def run(source: str, out: Path, **parameters: Any) -> None:
    """Run the compiled pipeline on SOURCE (s3://bucket/prefix or a folder) on this machine."""
    _run(source, out, parameters)


@main.command()
@click.argument("series")
@click.option("--basis", required=True, metavar="URI", help="The `basis/` of another run, of either mode.")
@click.option("--out", type=PATH, required=True, help="Folder to make: DICOM, basis, pictures, page and numbers.")
@options_but(SOURCE, MODE, BASIS)
def denoise(series: str, basis: str, out: Path, **parameters: Any) -> None:
    """Denoise SERIES (s3://bucket/prefix or a folder) on a stored basis, on this machine.

    In patch mode the noise is the series' own, estimated anew; the basis alone is the other's. In global mode the
    series is projected on the basis images, and the report says how much of it they leave out.
    """
    from ctbasis.patch.bases import kind_at

    mode = kind_at(absolute(basis))
    click.echo(f"{basis} is a basis of {'patches' if mode == 'patch' else 'slices'}: mode {mode}")
    _run(series, out, {**parameters, "mode": mode, "basis": basis})


def _run(source: str, out: Path, parameters: dict[str, Any]) -> None:
    from ctbasis.kubeflow.local import run as run_locally

    arguments = {**parameters, "source": absolute(source), "basis": absolute(parameters["basis"])}
    done = run_locally(arguments, out=out)
    click.echo(f"{done.out}: {', '.join(sorted(path.name for path in done.out.iterdir()))} in {done.seconds:.0f} s")


@main.command()
@click.argument("source", required=False)
@click.option("--host", envvar="CTBASIS_KFP_HOST", show_envvar=True, required=True, help="Address of the Kubeflow UI.")
@click.option("--experiment", default="ctbasis", show_default=True, help="Groups the runs; made where there is none.")
@click.option("--run-name", default="", help="What the UI calls the run; without it the pipeline's name and the time.")
@click.option(
    "--namespace",
    envvar="CTBASIS_KFP_NAMESPACE",
    show_envvar=True,
    default="",
    help="Your profile, on a server that has many users.",
)
@click.option("--upload-only", is_flag=True, help="Store the pipeline on the server and run nothing; needs no SOURCE.")
@click.option("--no-wait", is_flag=True, help="Leave once the run is started.")
@click.option("--timeout", type=click.FloatRange(min=0), help="Seconds to wait at most; the run goes on.")
@click.option("--out", type=PATH, help="Folder for metrics.json and figure1.png.")
@click.option(
    "--package",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="What `compile --out` wrote; without it the committed package.",
)
@pipeline_options
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
    **parameters: Any,
) -> None:
    """Run the compiled pipeline on SOURCE on a Kubeflow server, wait, and fetch its metrics and Figure 1.

    SOURCE is read by the server's pods, which see the bucket and not this machine. A bearer token is taken from the
    environment variable CTBASIS_KFP_TOKEN alone, so that no command line shows it. Ctrl-C ends the waiting, not the
    run.
    """
    from ctbasis.kubeflow import submit as submission
    from ctbasis.kubeflow.package import PACKAGE
    from ctbasis.kubeflow.server import connect

    if source is None and not upload_only:
        raise click.UsageError("Missing argument 'SOURCE'; only --upload-only needs none.")
    if (upload_only or no_wait) and (out or timeout is not None):
        raise click.UsageError("--out and --timeout belong to a run that is waited for.")
    client = connect(host, namespace=namespace)
    with redirect_stdout(io.StringIO()):  # kfp prints the same address and others
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
    click.echo(done.url)
    if upload_only or no_wait:
        return
    results = submission.finish(client, done.run_id, timeout=timeout, out=out)
    for name, value in results.metrics.items():
        click.echo(f"{name}: {value:.4g}" if isinstance(value, float) else f"{name}: {value}")
    if out is not None:
        click.echo(f"open {out / 'figure1.png'}")


@main.command(name="compile")
@click.option("--check", is_flag=True, help="Only say whether the committed package is what the source compiles to.")
@click.option("--out", type=PATH, help="Write it there, for `submit --package`, and leave pipeline/denoise.yaml alone.")
@click.option(
    "--access-mode",
    type=click.Choice(["ReadWriteOnce", "ReadWriteMany"]),
    help="Of the workspace's claim; without it ReadWriteMany. ReadWriteOnce wants --store s3://... at the run, or one "
    "node.",
)
@click.option("--storage-class", default="", help="Of the workspace's claim; without it the cluster's default.")
@click.option("--workspace-size", default="", metavar="SIZE", help="Of the workspace's claim; without it 20Gi.")
def compile_(
    *, check: bool, out: Path | None, access_mode: str | None, storage_class: str, workspace_size: str
) -> None:
    """Compile the pipeline to pipeline/denoise.yaml, or with another workspace to a file of its own."""
    from ctbasis.kubeflow import package

    chosen = access_mode or storage_class or workspace_size
    if check and (out or chosen):
        raise click.UsageError("--check is of the committed package; it goes with no other option.")
    if chosen and out is None:
        raise click.UsageError("Another workspace makes another package; say where by --out.")
    if check:
        package.check()
    elif out is not None:
        package.write(out, package.Claim(access_mode or "", storage_class, workspace_size))
    else:
        package.write()
    click.echo(f"{out or package.PACKAGE.name} is {'up to date' if check else 'written'}")


@main.command()
@click.argument("files", nargs=-1, type=PATH)
def lint(files: tuple[Path, ...]) -> None:
    """Check compiled packages and manifests, without FILES all that is committed."""
    from ctbasis.kubeflow.lint import committed
    from ctbasis.kubeflow.lint import lint as faults_in

    paths = list(files) or committed()
    faults = faults_in(paths)
    for fault in faults:
        click.echo(str(fault))
    if faults:
        raise CtbasisError(f"{len(faults)} faults in {len(paths)} files", expected="none")
    click.echo(f"{len(paths)} files, no fault")


@main.command()
@click.argument("source")
@click.option("--out", required=True, metavar="BASIS", help="Folder or s3://bucket/prefix for the factors; replaced.")
@click.option("--rank", type=click.IntRange(min=1), default=50, show_default=True, help="k: basis vectors to keep.")
@options_of(OVERSAMPLE, POWER_ITERS, SEED, METHOD, CLUSTER, DEIDENTIFY, RETAIN)
@click.option("--qc", type=PATH, help="Also write there what was read, set aside and tolerated, as JSON.")
def factor(source: str, out: str, rank: int, qc: Path | None, **parameters: Any) -> None:
    """Factor SOURCE (s3://bucket/prefix or a folder) straight from its DICOM files, on Spark; no matrix is stored.

    Executors decode the slices in parallel and feed the engine spark. The factors are those of `ctbasis run`, and
    `ctbasis reconstruct` makes DICOM of them.
    """
    from ctbasis.steps.svd import factorize_source

    check({"rank": str(rank), **parameters})
    told = absolute(str(qc)) if qc else None
    factorize_source(absolute(source), absolute(out), rank=rank, qc=told, **parameters)
    click.echo(f"{out}: rank {rank}; next: ctbasis reconstruct {out} --rank {rank} --out DIR")


@main.command()
@click.argument("basis")
@click.option("--rank", type=int, required=True, help="k: basis vectors to use, at most those stored.")
@click.option("--out", type=PATH, required=True, help="Folder to make with the derived DICOM series.")
@click.option("--basis-images", type=PATH, help="Folder to make with the basis images as a DICOM series.")
@click.option(
    COMPRESS.flag, type=click.Choice(COMPRESS.choices), default=COMPRESS.default, show_default=True, help=COMPRESS.help
)
def reconstruct(basis: str, rank: int, out: Path, basis_images: Path | None, compress: str) -> None:
    """Write the rank-k DICOM series from a stored BASIS (a folder or s3://bucket/prefix), without a factorization."""
    from ctbasis.steps.reconstruct import reconstruct as write

    write(basis, out, rank=rank, compression=compress, basis_images=basis_images)


@main.command(name="simulate-dose")
@click.argument("series", type=PATH)
@click.option("--out", type=PATH, required=True, help="Folder to make with the noisy DICOM series.")
@click.option("--photons", type=float, default=6e4, show_default=True, help="I0: photons a detector element counts.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the noise, and of the nodules' places.")
@click.option(
    "--electronic", type=float, default=10.0, show_default=True, help="Read-out noise, photons: tells where few arrive."
)
@click.option("--views", type=int, help="Angles over the half turn; without it pi/2 a column. Fewer are faster.")
@click.option(
    "--modulation",
    type=float,
    default=0.0,
    show_default=True,
    help="Of the tube current: 0 constant, 0.5 least noise for the dose, 1 the same noise in every view.",
)
@click.option(
    "--bow-tie",
    type=float,
    default=0.0,
    show_default=True,
    help="Radius in mm of the cylinder it evens out; 0 has none.",
)
@click.option(
    "--kernel",
    type=click.Choice(["hann", "cosine", "shepp-logan", "ram-lak"]),
    default="hann",
    show_default=True,
    help="Of the reconstruction, from soft to sharp.",
)
@click.option(
    "--nodules",
    metavar="FILE|N",
    help="Spheres to insert before the noise: a JSON list, or how many of 3, 5, 8 mm and +150, +600 HU each to place.",
)
@click.option("--truth-out", type=PATH, help="With --nodules: folder to make with them and no noise, and nodules.json.")
@click.option("--workers", type=int, help="Threads; without it all cores. The files do not depend on it.")
def simulate_dose(series: Path, out: Path, nodules: str | None, truth_out: Path | None, **settings: Any) -> None:
    """Insert the noise of a low dose into SERIES, in the projection domain."""
    from ctbasis.simulate.dose import simulate_low_dose

    inserted = int(nodules) if nodules and nodules.isdecimal() else Path(nodules) if nodules else None
    click.echo(json.dumps(simulate_low_dose(series, out, nodules=inserted, truth=truth_out, **settings)))


@main.command()
@click.option("--truth", type=PATH, required=True, help="Folder of the clean DICOM series.")
@click.option("--image", type=PATH, required=True, help="Folder of the series to score, same geometry.")
@click.option("--noisy", type=PATH, help="What the image was made from: scored too, and what was removed from it.")
@click.option(
    "--nodules", type=PATH, help="JSON of the nodules that the truth holds; without it nodules.json in its folder."
)
@click.option("--page", type=PATH, help="HTML file to write: the numbers with pictures, self-contained.")
@click.option("--out", type=PATH, help="Folder for score.json and score.html.")
def score(
    truth: Path, image: Path, noisy: Path | None, nodules: Path | None, page: Path | None, out: Path | None
) -> None:
    """Score a series against its clean copy and print JSON; docs/explanation/quality.md defines each number."""
    from ctbasis.score.score import findings

    found = findings(truth, image, noisy, nodules)
    if page is not None or out is not None:
        from ctbasis.score.score_page import write_folder, write_page

        if page is not None:
            write_page(found, page)
        if out is not None:
            write_folder(found, out)
    click.echo(json.dumps(found.scores, indent=2))


@main.command()
@click.option("--out", type=PATH, default=Path("demo"), show_default=True, help="Folder to make.")
@click.option("--photons", type=float, help="I0 of the simulated dose; fewer are noisier.")
@click.option("--slices", type=click.IntRange(min=2), help="Slices of the phantom.")
@click.option("--edge", type=click.IntRange(min=32), help="Rows and columns of a slice.")
@click.option("--seed", type=int, help="Of phantom and noise.")
def demo(out: Path, **chosen: Any) -> None:
    """Denoise a low-dose chest phantom from a real S3 server on loopback, the truth being known."""
    from ctbasis.demo.demo import demo as run_demo

    done = run_demo(out, **{name: value for name, value in chosen.items() if value is not None})
    scores = json.loads((done.out / "metrics.json").read_text())
    for name in ("before", "after"):
        told = ", ".join(f"{key} {scores[name][key]:.4g} {unit}".rstrip() for key, unit in SCORES.items())
        click.echo(f"{name:>6}: {told}")
    click.echo(f"open {done.out / 'figure1.png'} and {done.out / 'report.html'} ({done.seconds:.0f} s)")


@main.command()
@click.argument("what", type=click.Choice(["pipeline", "ingest", "svd", "quality"]), nargs=-1)
@click.option(
    "--series",
    type=PATH,
    multiple=True,
    help="A folder with one CT series; without it a phantom of 133 x 512 x 512. quality: repeatable, each is tuned on "
    "the next; without it two phantoms.",
)
@click.option(
    "--case",
    "names",
    multiple=True,
    help="svd: float64, int16, rank-50, stock, wide, growth, or out-of-core, which takes a quarter of an hour; without "
    "it all but the last. Repeatable.",
)
@click.option("--rows", type=click.IntRange(min=1), help="svd, a case of your own: rows of the made matrix.")
@click.option("--cols", type=click.IntRange(min=1), help="svd, a case of your own: its columns.")
@click.option("--dtype", type=click.Choice(["float64", "float32", "int16"]), help="svd, a case of your own: on disk.")
@click.option("--rank", type=click.IntRange(min=1), help="svd, a case of your own or --series: k.")
@click.option("--oversample", type=click.IntRange(min=0), help="svd, likewise: p.")
@click.option("--power-iters", type=click.IntRange(min=0), help="svd, likewise: q.")
@click.option("--memory", help="svd, likewise: that engine numpy may take, such as 3GiB.")
@click.option(
    "--engine",
    "contenders",
    multiple=True,
    help="svd, likewise: engines, peers, bare-blas and bare-read to run; repeatable.",
)
@click.option("--slices", type=click.IntRange(min=1), help="quality: slices scored of each series; time goes with it.")
@click.option("--noise", "levels", type=float, multiple=True, help="quality: HU of noise in the body; repeatable.")
@click.option(
    "--kernel",
    "kernels",
    type=click.Choice(["hann", "cosine", "shepp-logan", "ram-lak"]),
    multiple=True,
    help="quality: of the reconstruction; repeatable.",
)
@click.option(
    "--resolution",
    "resolutions",
    type=click.Choice(["binned", "native"]),
    multiple=True,
    help="quality: of the truth, 2 x 2 binned without it; native takes four times the time; repeatable.",
)
@click.option("--method", "methods", multiple=True, help="quality: peers and modes to run, all without it; repeatable.")
@click.option("--json", "json_file", type=PATH, help="Also write the rows there as JSON.")
@click.option("--page", type=PATH, help="svd, quality: also write tables and pictures to this folder.")
def bench(
    what: tuple[str, ...],
    series: tuple[Path, ...],
    names: tuple[str, ...],
    json_file: Path | None,
    page: Path | None,
    **own: Any,
) -> None:
    """Measure WHAT, or everything but quality: ratios come from one run, side by side."""
    from ctbasis.bench.cases import chosen_cases
    from ctbasis.bench.page import write_page
    from ctbasis.bench.quality import Views, Wanted
    from ctbasis.bench.quality_page import write_quality_page
    from ctbasis.bench.run import bench as measure
    from ctbasis.bench.run import table

    given = {name: value for name, value in own.items() if value not in (None, ())}
    quality = {name: given.pop(name) for name in list(given) if name in Wanted.__dataclass_fields__}
    views: list[Views] = []
    rows = measure(what, series, chosen_cases(names, given, series=bool(series)), Wanted(**quality), views=views)
    click.echo(table(rows))
    if json_file is not None:
        json_file.write_text(json.dumps({"rows": rows}, indent=2))
    if page is not None:
        own_rows = [row for row in rows if row["bench"] == "svd"]
        if own_rows:
            write_page(own_rows, page)
        if views:
            write_quality_page(views, page)


if __name__ == "__main__":
    main()
