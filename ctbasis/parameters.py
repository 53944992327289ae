"""Every parameter of the pipeline, declared once: name, type, default, bounds, choices, help text and group.

The plans below carry the parameters to the code that acts on them, through the component, the step and the Spark
driver. The command line, the pipeline, `--help` and the documentation read the same declarations. A new parameter
touches three places: its declaration here, the signatures of the pipeline and of its component, and the line that uses
it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any

from ctbasis.choices import AUTO, COMPRESSIONS, ENGINES, METHODS, MODES, RETAIN_OPTIONS, UNCOMPRESSED
from ctbasis.errors import CtbasisError
from ctbasis.parsing import (
    parse_cluster,
    parse_memory,
    parse_rank,
    parse_ranks,
    parse_registry,
    parse_retain,
    parse_served,
    validate_store,
)
from ctbasis.plans import Group, Parameter, ParameterPlan, parameter

if TYPE_CHECKING:
    from ctbasis.parsing import Rule

SEED_DRAWN = -1
"""Value of the parameter `seed` that draws a new seed."""

LARGEST_SEED = 10**15
"""A pipeline passes numbers as floats, which would round a much larger seed in silence."""

LARGEST_OVERSAMPLE = 10_000
"""More columns than most matrices have, so that a mistyped number is told instead of running as the full SVD."""

LARGEST_POWER_ITERS = 100
"""Far more than any spectrum needs; each costs at least one pass over the matrix."""

LARGEST_TAU = 20.0
"""Standard deviations of noise. A larger threshold would leave nothing but the mean of every class of patches."""

LARGEST_TARGET_NOISE = 1000.0
"""HU, the difference between soft tissue and air."""

LARGEST_STRIDE = 5
"""Voxels, the edge of a patch. A larger stride would leave voxels without a patch."""


@dataclass(frozen=True)
class SourcePlan(ParameterPlan):
    """Input of the fetch step.

    Attributes:
        source: Folder, `s3://bucket/prefix` or another source with the CT.
        truth: The same for a clean copy of the series; empty if there is none.
    """

    source: str = parameter(
        "",
        "Where the CT is: a folder, s3://bucket/prefix or another source of docs/reference/sources.md.",
        group=Group.SOURCE,
        metavar="SOURCE",
    )
    truth: str = parameter(
        "",
        "A clean copy of the same series (phantom or simulated dose), for scores in the report; same forms as SOURCE.",
        group=Group.SOURCE,
        metavar="URI",
    )


@dataclass(frozen=True)
class GlobalMode(ParameterPlan):
    """Parameters of global mode: the factorization of the matrix with one column a slice, A ~ U diag(s) V^T.

    Attributes:
        rank: Rank k of the denoised series, or a rule that chooses it.
        ranks: Further ranks that the report shows.
        oversample: Oversampling p, columns of the random projection beyond the rank.
        power_iters: Number of power iterations q.
        method: Algorithm of the block engines, one of `METHODS`.
    """

    rank: str = parameter(
        "50",
        "Basis vectors kept in the denoised series, or a rule: auto or auto:gd[=HU] (Gavish and Donoho), auto:mp[=HU] "
        "(Marchenko and Pastur), auto:energy=SHARE, auto:noise=HU. Fewer remove more noise and eventually anatomy; a "
        "rule factors at full rank first, and the report says what it assumes.",
        group=Group.GLOBAL_MODE,
        metavar="K|auto[:RULE]",
        parse=parse_rank,
    )
    ranks: str = parameter(
        "50,244,300",
        "Ranks shown in Figure 1. The factorization runs at the largest.",
        group=Group.GLOBAL_MODE,
        metavar="K,K,...",
        parse=parse_ranks,
    )
    oversample: int = parameter(
        15,
        "Oversampling p: columns of the random projection beyond the rank. More is safer where singular values decay "
        "slowly, and slower.",
        group=Group.GLOBAL_MODE,
        least=0,
        most=LARGEST_OVERSAMPLE,
    )
    power_iters: int = parameter(
        2,
        "Power iterations q. CT spectra decay slowly: use at least 1, and 2 for singular values right to a percent. "
        "Each costs two passes over the matrix with mahout, one with other engines, none with the exact method.",
        group=Group.GLOBAL_MODE,
        least=0,
        most=LARGEST_POWER_ITERS,
    )
    method: str = parameter(
        AUTO,
        "Algorithm of the engines spark, dask, ray and numpy: exact, for up to some thousands of slices; randomized, "
        "for more, with oversample and power_iters; single-pass, for data that can be read only once, less accurate "
        "where singular values decay slowly; auto chooses.",
        group=Group.GLOBAL_MODE,
        choices=METHODS,
    )

    @property
    def rank_or_rule(self) -> int | Rule:
        """Rank of the denoised series, or the rule that chooses it."""
        return parse_rank(self.rank)

    @property
    def figure_ranks(self) -> list[int]:
        """Ranks that the report shows, ascending."""
        return parse_ranks(self.ranks)


@dataclass(frozen=True)
class PatchMode(ParameterPlan):
    """Parameters of patch mode: overlapping 3-D patches are whitened by the estimated noise and denoised on a basis.

    Attributes:
        tau: Hard threshold in standard deviations of noise.
        wiener: Whether the second, Wiener stage runs.
        stride: Voxels between neighbouring patches within a slice.
        target_noise: Noise in HU, in soft tissue, of the scan that the denoised series shall look like.
    """

    tau: float = parameter(
        3.0,
        "Hard threshold in standard deviations of noise: smaller coefficients are set to zero. A larger value removes "
        "more noise and, from about 3, faint structures; 0 removes nothing.",
        group=Group.PATCH_MODE,
        least=0.0,
        most=LARGEST_TAU,
        expected=f"a number from 0 (nothing is removed) to {LARGEST_TAU:g}, such as 3",
        metavar="NUMBER",
    )
    wiener: bool = parameter(
        True,
        "Run a second stage, a Wiener filter guided by the result of the first. It improves lungs and faint "
        "structures; without it a run takes about half the time.",
        group=Group.PATCH_MODE,
    )
    stride: int = parameter(
        1,
        "Voxels between neighbouring patches within a slice. 2 takes less than half the time and leaves a little more "
        "noise.",
        group=Group.PATCH_MODE,
        least=1,
        most=LARGEST_STRIDE,
    )
    target_noise: float = parameter(
        # The least that chest scans of standard dose commonly have in slices of 3 to 5 mm.
        8.0,
        "Noise in HU, in soft tissue, of the standard-dose scan that the denoised series shall look like. A share of "
        "the removed noise is restored for it: nearly nothing at low dose, all of it up to 1.4 times as much noise. "
        "0 restores none.",
        group=Group.PATCH_MODE,
        least=0.0,
        most=LARGEST_TARGET_NOISE,
        expected=f"HU from 0 (all noise that is found is removed) to {LARGEST_TARGET_NOISE:g}, such as 8",
        metavar="HU",
    )


@dataclass(frozen=True)
class SvdPlan(ParameterPlan):
    """Parameters of the svd step: what is factored, by which engine, and the parameters of each mode.

    Attributes:
        mode: One of `MODES`.
        basis: URI of a stored basis to apply; empty to compute one from this series.
        engine: One of `ENGINES`, or `auto`.
        seed: Seed of the random numbers, -1 to draw one.
        memory: Memory that the engine numpy may take.
        cluster: Address of the engine's own cluster; empty for the one of the environment, or this machine.
        global_mode: Parameters of global mode.
        patch_mode: Parameters of patch mode.
    """

    mode: str = parameter(
        "global",
        "global: one column a slice, the published method; it helps at heavy noise and with many slices. patch: "
        "overlapping 3-D patches, whitened by the noise that is estimated from the series; the mode for a single "
        "series at ordinary dose. It takes no rank, and several times as long.",
        group=Group.METHOD,
        choices=MODES,
    )
    basis: str = parameter(
        "",
        "URI of a stored basis to apply, the `basis/` of another run in the same mode; empty computes one from this "
        "series. A patch basis saves the time of learning, and serves where a series is too short to learn from; it "
        "fits series of the same kernel and spacing. A global basis seldom represents another patient, and the report "
        "says how much it leaves out.",
        group=Group.METHOD,
        metavar="URI",
    )
    engine: str = parameter(
        AUTO,
        "What factors: "
        + "; ".join(f"{name} = {engine.summary}" for name, engine in ENGINES.items())
        + "; auto chooses.",
        group=Group.PLACE,
        choices=(AUTO, *ENGINES),
    )
    seed: int = parameter(
        SEED_DRAWN,
        f"Seed of the random projection in global mode, for engines that take one; {SEED_DRAWN} draws a new one. In "
        f"patch mode, seed of the sample of patches; {SEED_DRAWN} is 0.",
        group=Group.METHOD,
        least=SEED_DRAWN,
        most=LARGEST_SEED,
    )
    memory: str = parameter(
        AUTO,
        "Memory that the engine numpy may take, such as 3GiB, whatever the size of the matrix; with more, row blocks "
        "stay in memory from one pass to the next. auto: half of the free memory.",
        group=Group.PLACE,
        metavar="SIZE",
        parse=parse_memory,
    )
    cluster: str = parameter(
        "",
        "Address of the engine's own cluster: a Spark master (spark://host:7077), a Dask scheduler (tcp://host:8786) "
        "or a Ray head (host:6379, ray://host:10001), whose workers have ctbasis and reach the stores. Empty: in a "
        "run on Kubeflow the operator of the engine (Spark, Ray, Dask), elsewhere what DASK_SCHEDULER_ADDRESS or "
        "RAY_ADDRESS say, else this machine.",
        group=Group.PLACE,
        metavar="ADDRESS",
        parse=parse_cluster,
    )
    global_mode: GlobalMode = field(default_factory=GlobalMode)
    patch_mode: PatchMode = field(default_factory=PatchMode)

    @property
    def memory_bytes(self) -> int:
        """Bytes that the engine numpy may take; 0 for a share of the free memory."""
        return parse_memory(self.memory)

    @property
    def projection_seed(self) -> int | None:
        """Seed of the random projection in global mode; None lets the engine draw one."""
        return None if self.seed == SEED_DRAWN else self.seed

    @property
    def sample_seed(self) -> int:
        """Seed of the sample of patches in patch mode; 0 where none is given, so that equal runs give equal files."""
        return max(self.seed, 0)


@dataclass(frozen=True)
class StorePlan(ParameterPlan):
    """Where the run's stores are.

    Attributes:
        store: `s3://bucket/prefix`; empty for the run's workspace.
    """

    store: str = parameter(
        "",
        "s3://bucket/prefix: matrix and factors go there, into a folder of the run that is removed at its end, and "
        "executors on other nodes read and write it. Empty: the run's workspace, which then must be ReadWriteMany "
        "where pods are scheduled on several nodes.",
        group=Group.PLACE,
        metavar="URI",
        parse=validate_store,
    )


@dataclass(frozen=True)
class DeidentificationPlan(ParameterPlan):
    """De-identification by PS3.15 Annex E, Basic Profile, in the fetch and matrix steps.

    Attributes:
        deidentify: Whether headers and file names are de-identified before anything is stored.
        retain: Options of the profile, comma-separated names of `RETAIN_OPTIONS`.

    Raises:
        CtbasisError: `retain` names options without `deidentify`.
    """

    deidentify: bool = parameter(
        False,
        "De-identify by PS3.15 Annex E, Basic Profile, before anything is stored. UIDs and patient IDs are replaced "
        "under the secret in CTBASIS_DEIDENTIFY_SALT; without it each run has a secret of its own, and the pseudonyms "
        "of two runs do not match.",
        group=Group.DEIDENTIFICATION,
    )
    retain: str = parameter(
        "",
        "What de-identification keeps: " + "; ".join(f"{name} = {kept}" for name, kept in RETAIN_OPTIONS.items()) + ".",
        group=Group.DEIDENTIFICATION,
        metavar="OPTION,...",
        parse=parse_retain,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if parse_retain(self.retain) and not self.deidentify:
            raise CtbasisError(
                "retain is given, and deidentify is not", remedy="add --deidentify, or leave --retain out"
            )


@dataclass(frozen=True)
class OutputPlan(ParameterPlan):
    """Form of the DICOM series that the reconstruct step writes.

    Attributes:
        compress: One of `COMPRESSIONS`.
    """

    compress: str = parameter(
        UNCOMPRESSED,
        "Lossless compression of the DICOM series that are written. jpeg-ls needs a third of the space, rle half of "
        "it; jpeg2000, which more viewers read than jpeg-ls, takes three times as long to write.",
        group=Group.OUTPUT,
        choices=COMPRESSIONS,
    )


@dataclass(frozen=True)
class DeployPlan(ParameterPlan):
    """What the deploy step does with the basis of a run on Kubeflow.

    Attributes:
        deploy: `KIND/NAME` of the served model that gets the basis; empty for none.
        registry: Address of a Model Registry; empty for none.

    Raises:
        CtbasisError: `registry` is given without `deploy`.
    """

    deploy: str = parameter(
        "",
        "Served model that gets the basis of this run when the run has succeeded: inferenceservice/NAME with KServe, "
        "deployment/NAME without (docs/how-to/serving.md). It is in the namespace of the run. Patch mode only. Empty: "
        "nothing is changed.",
        group=Group.SERVING,
        metavar="KIND/NAME",
        parse=parse_served,
    )
    registry: str = parameter(
        "",
        "With deploy: address of a Kubeflow Model Registry, http://HOST:PORT or https://HOST, in which the basis is "
        "registered before the served model gets it. Empty: it is not registered.",
        group=Group.SERVING,
        metavar="URL",
        parse=parse_registry,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.registry and not self.deploy:
            raise CtbasisError(
                "registry is given, and deploy is not",
                expected="the served model that gets the basis",
                remedy="add deploy, or leave registry out",
            )


@dataclass(frozen=True)
class CohortOptions(ParameterPlan):
    """Parameters that a cohort run has besides those of its series.

    Attributes:
        out: Folder or `s3://bucket/prefix` of the results.
        template: Folder of each series below `out`; empty for the tree of the source, or of pseudonyms.
        where: Expression that selects series; empty for all.
        again: Whether settings other than those of the earlier run into `out` are meant.
    """

    out: str = parameter(
        "",
        "Folder or s3://bucket/prefix for the results: a folder for each series, and the summary as page, CSV and "
        "Parquet. A run into an earlier output denoises only what is missing or changed.",
        group=Group.OUTPUT,
        metavar="DIR|s3://...",
    )
    template: str = parameter(
        "",
        "Folder of each series below the output, with the fields {SourceFolder}, {PatientID}, {StudyInstanceUID}, "
        "{SeriesInstanceUID}, {Modality}, {Manufacturer}, {ManufacturerModelName} and {ConvolutionKernel}. By default "
        "{SourceFolder}/{SeriesInstanceUID}, the tree of the source; with de-identification "
        "{PatientID}/{StudyInstanceUID}/{SeriesInstanceUID}, of pseudonyms. A template that maps two series to one "
        "folder is refused before anything runs.",
        group=Group.OUTPUT,
        metavar="PATH",
    )
    where: str = parameter(
        "",
        "Expression on the columns of `ctbasis inventory` that selects series, such as "
        '\'modality == "CT" and slices > 40 and kernel =~ "B.*f"\'; empty for all.',
        group=Group.SOURCE,
        metavar="EXPRESSION",
    )
    again: bool = parameter(
        False,
        "Accept settings other than those of the earlier run into the output, and denoise again what they concern.",
        group=Group.OUTPUT,
    )


PLANS: tuple[type[ParameterPlan], ...] = (
    SourcePlan,
    SvdPlan,
    StorePlan,
    DeidentificationPlan,
    OutputPlan,
    DeployPlan,
)
"""The plans that together hold every parameter once."""

PARAMETERS: tuple[Parameter[Any], ...] = tuple(chain.from_iterable(plan.parameters() for plan in PLANS))
"""Every parameter of the pipeline."""

PARAMETER: dict[str, Parameter[Any]] = {one.name: one for one in PARAMETERS}
"""The same by name."""

COHORT_PARAMETERS: tuple[Parameter[Any], ...] = CohortOptions.parameters()
"""The parameters that a cohort has besides, on the command line and in the pipeline of cohorts."""

COHORT_PARAMETER: dict[str, Parameter[Any]] = {one.name: one for one in COHORT_PARAMETERS}
"""The same by name."""

NOT_OF_A_COHORT = ("truth", "store", "deploy", "registry")
"""Parameters of the pipeline of one source that the one of cohorts lacks: they concern one series, one run, or the one
basis of a run; a cohort learns one for each of its jobs."""

ON_KUBEFLOW: tuple[Parameter[Any], ...] = DeployPlan.parameters()
"""Parameters that only a run on Kubeflow takes, so that the verbs that run on this machine have no option for them."""

SOURCE, MODE, BASIS, SEED = (PARAMETER[name] for name in ("source", "mode", "basis", "seed"))
OVERSAMPLE, POWER_ITERS, METHOD = (PARAMETER[name] for name in ("oversample", "power_iters", "method"))
CLUSTER, DEIDENTIFY, RETAIN, COMPRESS = (PARAMETER[name] for name in ("cluster", "deidentify", "retain", "compress"))


def check(arguments: dict[str, Any]) -> None:
    """Refuse arguments before a run starts that one of its steps would refuse.

    Args:
        arguments: Parameters of the pipeline by name; those left out have their defaults.

    Raises:
        CtbasisError: A name is unknown, a value has the wrong type or is out of bounds, or the basis of global mode is
            to be served.
    """
    for name in arguments:
        if name not in PARAMETER:
            raise CtbasisError(f"parameter {name!r} is unknown", expected=f"one of {', '.join(PARAMETER)}")
    for plan in PLANS:
        plan.of(**{name: arguments[name] for name in plan.names() if name in arguments})
    if arguments.get("deploy") and arguments.get("mode", MODE.default) != "patch":
        raise CtbasisError(
            "deploy is given, and the run is in global mode",
            expected="a run in patch mode: a served model denoises volumes by patches",
            remedy="set mode to patch, or leave deploy out",
        )
