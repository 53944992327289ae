"""The driver program of the svd step: factor a matrix with one engine, or denoise it in patch mode.

    spark-submit ... ctbasis/spark/driver.py --matrix URI --factors URI --plan JSON
    spark-submit ... ctbasis/spark/driver.py --source s3://bucket/prefix --factors URI --plan JSON
    spark-submit ... ctbasis/spark/driver.py --matrix URI --denoised URI --factors URI --plan JSON   (patch mode)
    python3 -m ctbasis.spark.driver --encoded TEXT   (the head of a Ray cluster; TEXT holds one of these command lines)

JSON is an `SvdPlan` as its `to_json` writes it; `Job.arguments` makes such a command line. It also names the version of
ctbasis that made it, and the program refuses another version than its own before it reads anything else.

The program imports no Spark. An engine that needs a Spark session gets it from the application in which the program
runs; with the other engines the svd step calls `run` in its own process.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import json
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from ctbasis.choices import AUTO
from ctbasis.errors import CtbasisError, exit_on_error
from ctbasis.installed import VERSION
from ctbasis.matrix.store import MatrixStore
from ctbasis.parameters import DeidentificationPlan, SvdPlan
from ctbasis.patch.plan import PatchPlan
from ctbasis.printable import say
from ctbasis.storage.outputs import write_file
from ctbasis.svd.engines import engine_named
from ctbasis.svd.factors import FactorWriter
from ctbasis.svd.plan import fit_plan

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

    from ctbasis.patch.noise import Noise
    from ctbasis.spark.fused import FusedMatrix
    from ctbasis.svd.plan import Plan
    from ctbasis.svd.spectrum import Spectrum

DTYPES = ("float32", "float64")

ENCODED = "--encoded"
"""Option in place of all others, for a command line that passes through shells."""


@dataclass(frozen=True)
class Job:
    """One run of the driver program: what it reads, what it writes, and the plan.

    Attributes:
        plan: Parameters of the svd step. The engine is one of `ENGINES` and the rank a number.
        factors: URI of the factor store, in patch mode of the stored bases; replaced if it exists.
        matrix: URI of a complete matrix store; empty if `source` is given.
        source: URI of DICOM files, which Spark executors decode; no matrix is stored.
        denoised: URI of the denoised matrix of patch mode; replaced if it exists.
        deidentification: With `source`, how headers are de-identified before they are stored.
        qc: With `source`, file for the JSON of what was read, set aside and tolerated; empty for none.
        dtype: Type of U on disk, float32 or float64.

    Raises:
        CtbasisError: The parts do not fit together.
    """

    plan: SvdPlan
    factors: str
    matrix: str = ""
    source: str = ""
    denoised: str = ""
    deidentification: DeidentificationPlan = field(default_factory=DeidentificationPlan)
    qc: str = ""
    dtype: str = DTYPES[0]

    def __post_init__(self) -> None:
        if self.plan.engine == AUTO:
            raise CtbasisError("the engine is auto", expected="an engine by name; the svd step chooses it")
        if bool(self.matrix) == bool(self.source):
            raise CtbasisError("the job reads both or neither of --matrix and --source", expected="one of the two")
        if self.source and (self.plan.mode, self.plan.engine) != ("global", "spark"):
            raise CtbasisError(
                f"--source is given for mode {self.plan.mode} with engine {self.plan.engine}",
                expected="mode global with engine spark, whose executors decode DICOM files",
            )
        if (self.plan.mode == "patch") != bool(self.denoised):
            raise CtbasisError(
                f"mode is {self.plan.mode}, and --denoised is {'given' if self.denoised else 'missing'}",
                expected="--denoised in patch mode, and in no other",
            )
        if not self.source and (self.deidentification.deidentify or self.qc):
            raise CtbasisError(
                "--deidentification or --qc is given without --source",
                expected="both only with --source; otherwise the matrix step has read the headers",
            )

    def arguments(self) -> list[str]:
        """Return the command line of this job, which `parse` reads."""
        given = {"matrix": self.matrix, "source": self.source, "factors": self.factors, "denoised": self.denoised}
        given |= {"plan": self.plan.to_json(), "qc": self.qc, "release": VERSION}
        if self.deidentification != DeidentificationPlan():
            given["deidentification"] = self.deidentification.to_json()
        if self.dtype != DTYPES[0]:
            given["dtype"] = self.dtype
        return [part for option, value in given.items() if value for part in (f"--{option}", value)]

    @classmethod
    def parse(cls, arguments: Sequence[str]) -> Self:
        """Read a command line.

        Raises:
            CtbasisError: Another version of ctbasis made it, an option is wrong, a plan is invalid, or the parts do not
                fit together.
        """
        arguments = _decoded(arguments)
        _refuse_other_release(arguments)
        parser = _Parser(prog="driver.py", description="Factor or denoise a matrix store.")
        parser.add_argument("--release", default=VERSION, metavar="VERSION", help="version of ctbasis that runs this")
        parser.add_argument("--matrix", default="", metavar="URI", help="complete matrix store")
        parser.add_argument(
            "--source", default="", metavar="URI", help="DICOM files, decoded by Spark executors; no matrix is stored"
        )
        parser.add_argument(
            "--factors", required=True, metavar="URI", help="factor store or stored bases to write; replaced"
        )
        parser.add_argument("--denoised", default="", metavar="URI", help="patch mode: matrix to write; replaced")
        parser.add_argument("--plan", required=True, metavar="JSON", help="SvdPlan: the parameters of the svd step")
        parser.add_argument(
            "--deidentification", metavar="JSON", help="with --source, DeidentificationPlan for the headers"
        )
        parser.add_argument(
            "--qc", default="", metavar="FILE", help="with --source, JSON of what was read and set aside"
        )
        parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="type of U on disk")
        parser.set_defaults(deidentification=DeidentificationPlan().to_json())
        given = vars(parser.parse_args(arguments))
        del given["release"]
        given["plan"] = SvdPlan.from_json(given["plan"])
        given["deidentification"] = DeidentificationPlan.from_json(given["deidentification"])
        return cls(**given)


class _Parser(argparse.ArgumentParser):
    """A parser whose refusal is an error like any other, so that the step which started the program can show it."""

    def error(self, message: str) -> NoReturn:
        raise CtbasisError(
            f"the command line of the driver program: {message}",
            expected="the options of `driver.py --help`",
            cause=f"another version of ctbasis than {VERSION}, which this program is of, made it",
            remedy="use the images `ctbasis/steps` and `ctbasis/spark` of one version",
        )


def _refuse_other_release(arguments: Sequence[str]) -> None:
    """Refuse a command line that another version of ctbasis made; its other options may be unknown here.

    Raises:
        CtbasisError: The option --release names another version.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--release", default=VERSION)
    release = parser.parse_known_args(arguments)[0].release
    if release != VERSION:
        raise CtbasisError(
            f"the step has ctbasis {release}, and the image of its job has ctbasis {VERSION}",
            expected="one version of ctbasis in the images of the steps and of the jobs that they start",
            cause="one of the images was built or tagged at another time, or the template names another tag",
            remedy=f"build and push the images of one version, and name {release} in the template ctbasis-svd, as in "
            "spec.image of the SparkApplication",
        )


def _decoded(arguments: Sequence[str]) -> Sequence[str]:
    """Return the command line that `--encoded TEXT` holds: base64 of a JSON list, which no shell changes.

    Raises:
        CtbasisError: The text is no such list.
    """
    if list(arguments[:1]) != [ENCODED]:
        return arguments
    try:
        decoded = json.loads(base64.urlsafe_b64decode("".join(arguments[1:])))
    except (binascii.Error, ValueError):
        decoded = None
    if not isinstance(decoded, list) or not all(isinstance(one, str) for one in decoded):
        raise CtbasisError(
            f"the command line of the driver program: {ENCODED} holds no command line",
            expected="base64 of a JSON list of texts",
            cause="the entrypoint of the job was changed",
            remedy="run again: the svd step writes the entrypoint",
        )
    return decoded


def run(job: Job, *, estimated: Sequence[Noise | None] = ()) -> None:
    """Run `job`; what it writes is complete when this returns, and not before.

    Args:
        job: The job.
        estimated: In patch mode, noise that is known already, see `denoise_matrix`.

    Raises:
        CtbasisError: The matrix is missing or incomplete, the parameters do not fit it, or the engine refused.
    """
    start = time.monotonic()
    _log(f"plan {job.plan.to_json()}")
    if job.plan.mode == "patch":
        note = _denoise_patches(job, estimated)
    else:
        note = _factor_source(job) if job.source else _factor_matrix(job)
    _log(f"done in {time.monotonic() - start:.1f} s; {note}")


def _factor_matrix(job: Job) -> str:
    factorize = engine_named(job.plan.engine).load()
    matrix = MatrixStore.open(job.matrix)
    plan = _fitted(job.plan, matrix)
    factors = FactorWriter.create(job.factors, matrix, rank=plan.rank, dtype=job.dtype)
    spectrum = factorize(matrix, factors, plan)
    _finish(factors, spectrum, plan, matrix)
    return spectrum.note


def _denoise_patches(job: Job, estimated: Sequence[Noise | None]) -> str:
    from ctbasis.patch.matrix import denoise_matrix

    parameters = job.plan
    plan = PatchPlan(
        **parameters.patch_mode.values(),
        engine=parameters.engine,
        basis=parameters.basis,
        seed=parameters.sample_seed,
    )
    done = denoise_matrix(
        job.matrix,
        job.denoised,
        job.factors,
        plan,
        cluster=parameters.cluster,
        memory=parameters.memory_bytes,
        estimated=estimated,
    )
    return done.plan.summary


def _factor_source(job: Job) -> str:
    from ctbasis.dicom.deidentify.deidentification import Deidentification
    from ctbasis.spark.fused import Fused
    from ctbasis.svd.engines.spark import spark_context

    identity = Deidentification.of(job.deidentification.retain) if job.deidentification.deidentify else None
    _log(str(identity or "not de-identified: the factors name the patient as the source does"))
    fused = Fused(spark_context(job.plan.cluster), job.source, deidentification=identity)
    try:
        plan = _fitted(job.plan, fused.matrix)
        factors, spectrum = fused.factorize(job.factors, plan, dtype=job.dtype)
        if job.qc:
            write_file(Path(job.qc), json.dumps(fused.matrix.qc, indent=1) + "\n")
        _finish(factors, spectrum, plan, fused.matrix)
    finally:
        fused.close()
    return spectrum.note


def _fitted(parameters: SvdPlan, matrix: MatrixStore | FusedMatrix) -> Plan:
    plan = fit_plan(parameters, rows=matrix.rows, cols=matrix.cols)
    for clamp in plan.clamps:
        _log(clamp)
    _log(
        f"{plan.engine} factors {plan.rows} x {plan.cols} in {matrix.block_count} blocks: "
        f"k={plan.rank}, p={plan.oversample}, q={plan.power_iters}"
    )
    return plan


def _finish(factors: FactorWriter, spectrum: Spectrum, plan: Plan, matrix: MatrixStore | FusedMatrix) -> None:
    accuracy = spectrum.accuracy
    factors.finish(s=spectrum.s, V=spectrum.V, plan=replace(plan, note=spectrum.note), matrix=matrix, accuracy=accuracy)
    if accuracy is not None and accuracy.norm > 0:
        _log(
            f"residual {accuracy.residual / accuracy.norm:.3e} of ||A||_F, spectral error at most "
            f"{accuracy.spectral_error / accuracy.norm:.3e}, {accuracy.passes} passes over A"
        )


def _log(line: str) -> None:
    say(f"svd: {line}")


if __name__ == "__main__":
    with exit_on_error():
        run(Job.parse(sys.argv[1:]))
