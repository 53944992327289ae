"""Every parameter of the pipeline once: name, type, default, bounds and help; the CLI, the DSL and the docs read it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from ctbasis.dicom.deidentify.profile import OPTIONS
from ctbasis.dicom.deidentify.profile import check as check_deidentification
from ctbasis.dicom.lossless import CHOICES, UNCOMPRESSED
from ctbasis.errors import CtbasisError
from ctbasis.patch.plan import TARGET_NOISE as PATCH_TARGET_NOISE
from ctbasis.patch.plan import TAU as PATCH_TAU
from ctbasis.patch.plan import check_stride, parse_target_noise, parse_tau
from ctbasis.storage import stores
from ctbasis.svd.engines import ENGINES
from ctbasis.svd.memory import parse_memory
from ctbasis.svd.plan import METHODS, MODES
from ctbasis.svd.rank import parse_rank, parse_ranks

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T", str, int, bool, float)


@dataclass(frozen=True)
class Parameter(Generic[T]):
    """One parameter.

    Attributes:
        name: As in the compiled pipeline; `--like-this` on the command line.
        default: What it is where the user does not say.
        help: What it is, when to turn it, and what that costs.
        least: Smallest value of a number.
        choices: All values there are, where they can be listed.
        metavar: What `--help` shows for the value.
    """

    name: str
    default: T
    help: str
    least: int | None = None
    choices: tuple[str, ...] = ()
    metavar: str | None = None

    @property
    def flag(self) -> str:
        """Its command-line option."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def type(self) -> type[T]:
        """The type of its values."""
        return type(self.default)


SEED_DRAWN = -1

SOURCE = Parameter("source", "", "Where the CT is: s3://bucket/prefix or a folder.", metavar="SOURCE")
TRUTH = Parameter(
    "truth",
    "",
    "A clean copy of the same series (phantom or simulated dose), for scores in the report; same forms as SOURCE.",
    metavar="URI",
)
RANK = Parameter(
    "rank",
    "50",
    "Basis vectors kept in the denoised series, or a rule: auto or auto:gd[=HU] (Gavish and Donoho), auto:mp[=HU] "
    "(Marchenko and Pastur), auto:energy=SHARE, auto:noise=HU. Fewer remove more noise and sooner or later anatomy; a "
    "rule factors at full rank first, and the report says what it assumes.",
    metavar="K|auto[:RULE]",
)
RANKS = Parameter(
    "ranks", "50,244,300", "Ranks shown in Figure 1. The factorization runs at the largest.", metavar="K,K,..."
)
OVERSAMPLE = Parameter(
    "oversample",
    15,
    "p: columns of the random projection beyond the rank. More is safer where singular values decay slowly, "
    "and slower.",
    least=0,
)
POWER_ITERS = Parameter(
    "power_iters",
    2,
    "q: power iterations. CT spectra decay slowly: 1 at least, 2 for singular values right to a percent; "
    "each costs mahout two passes over the matrix, other engines one, and the exact method none.",
    least=0,
)
ENGINE = Parameter(
    "engine",
    "auto",
    "What factors: " + "; ".join(f"{name} = {engine.summary}" for name, engine in ENGINES.items()) + "; auto chooses.",
    choices=("auto", *ENGINES),
)
MODE = Parameter(
    "mode",
    "global",
    "global: one column a slice, the published method. It helps at heavy noise and with many slices. patch: "
    "overlapping 3-D patches, whitened by the noise that is estimated from the series; what to use on a single series "
    "at ordinary dose. It takes no rank, and several times as long.",
    choices=MODES,
)
BASIS = Parameter(
    "basis",
    "",
    "URI of a basis to apply, the `basis/` of another run in the same mode; empty makes one of this series. A patch "
    "basis saves its learning, and serves where a series is too short to learn on; it fits series of the same kernel "
    "and spacing. A global one seldom holds another patient, and the report says how much it leaves out.",
    metavar="URI",
)
TAU = Parameter(
    "tau",
    PATCH_TAU,
    "Patch mode: standard deviations of noise below which a weight is dropped. More removes more noise and, from about "
    "3, faint structures; 0 removes nothing.",
    metavar="NUMBER",
)
WIENER = Parameter(
    "wiener",
    True,
    "Patch mode: a second stage that shrinks every weight as the first one's result says. Lungs and faint structures "
    "gain; without it takes about half the time.",
)
STRIDE = Parameter(
    "stride",
    1,
    "Patch mode: voxels between patches within the slice. 2 takes less than half the time and leaves a little more "
    "noise.",
    least=1,
)
TARGET_NOISE = Parameter(
    "target_noise",
    PATCH_TARGET_NOISE,
    "Patch mode: HU in soft tissue, of the scan of standard dose that the series is made to look like. Of what is "
    "removed, the share of that scan's noise is put back: nearly nothing at low dose, all of it up to 1.4 times as "
    "much noise. 0 leaves none.",
    metavar="HU",
)
SEED = Parameter(
    "seed",
    SEED_DRAWN,
    f"Seed of the random projection, for engines that take one; {SEED_DRAWN} draws a new one. In patch mode of the "
    f"draw of patches; {SEED_DRAWN} is 0.",
    least=SEED_DRAWN,
)

METHOD = Parameter(
    "method",
    "auto",
    "How spark, dask, ray and numpy factor: exact, up to some thousands of slices; randomized beyond, by oversample "
    "and power_iters; single-pass for what is to be read once, less right where singular values decay slowly; auto "
    "chooses.",
    choices=METHODS,
)
MEMORY = Parameter(
    "memory",
    "auto",
    "Memory that the engine numpy may take, such as 3GiB, whatever the size of the matrix; more of it keeps row blocks "
    "from one pass to the next. auto: half of what is free.",
    metavar="SIZE",
)
CLUSTER = Parameter(
    "cluster",
    "",
    "Address of the engine's own cluster: a Spark master (spark://host:7077), a Dask scheduler (tcp://host:8786) or a "
    "Ray head (host:6379, ray://host:10001), whose workers have ctbasis and reach the stores. Empty: what "
    "DASK_SCHEDULER_ADDRESS or RAY_ADDRESS say, the Spark operator in a pod, else this machine.",
    metavar="ADDRESS",
)

STORE = Parameter(
    "store",
    "",
    "s3://bucket/prefix: matrix and factors go there, in a folder of the run's own that is removed at its end, and "
    "executors on other nodes read and write it. Empty: the run's workspace, which then must be ReadWriteMany where "
    "pods land on several nodes.",
    metavar="URI",
)

DEIDENTIFY = Parameter(
    "deidentify",
    False,
    "De-identify by PS3.15 Annex E, Basic Profile, before anything is stored. UIDs and patient IDs are replaced under "
    "the secret of CTBASIS_DEIDENTIFY_SALT; without one each run has its own, and two runs do not match.",
)
RETAIN = Parameter(
    "retain",
    "",
    "What de-identification lets stay: "
    + "; ".join(f"{name} = {option.help}" for name, option in OPTIONS.items())
    + ".",
    metavar="OPTION,...",
)
COMPRESS = Parameter(
    "compress",
    UNCOMPRESSED,
    "Lossless compression of the DICOM series that are written. jpeg-ls takes a third of the room, rle half of it; "
    "jpeg2000, which more viewers read than jpeg-ls, takes three times as long to write.",
    choices=CHOICES,
)

PARAMETERS: tuple[Parameter[str] | Parameter[int] | Parameter[bool] | Parameter[float], ...] = (
    SOURCE,
    TRUTH,
    RANK,
    RANKS,
    OVERSAMPLE,
    POWER_ITERS,
    ENGINE,
    MODE,
    BASIS,
    TAU,
    WIENER,
    STRIDE,
    TARGET_NOISE,
    SEED,
    METHOD,
    MEMORY,
    CLUSTER,
    STORE,
    DEIDENTIFY,
    RETAIN,
    COMPRESS,
)


CHECKS: dict[str, Callable[[str], object]] = {
    "rank": parse_rank,
    "memory": parse_memory,
    "ranks": parse_ranks,
    "tau": parse_tau,
    "stride": lambda text: check_stride(int(text)),
    "target_noise": parse_target_noise,
    "store": stores.validate_prefix,
}
"""What refuses a value by its form."""


def check(arguments: dict[str, Any]) -> None:
    """Refuse arguments that the pipeline would refuse an hour later.

    Raises:
        CtbasisError: An unknown name, or a value outside its bounds.
    """
    table = {parameter.name: parameter for parameter in PARAMETERS}
    for name, value in arguments.items():
        if name not in table:
            raise CtbasisError(f"parameter {name!r} is unknown", expected=f"one of {', '.join(table)}")
        parameter = table[name]
        if parameter.choices and value not in parameter.choices:
            raise CtbasisError(f"{name} is {value!r}", expected=f"one of {', '.join(parameter.choices)}")
        if parameter.least is not None and int(value) < parameter.least:
            raise CtbasisError(f"{name} is {value}", expected=f"a whole number, at least {parameter.least}")
    for name, checked in CHECKS.items():
        if name in arguments:
            checked(str(arguments[name]))
    check_deidentification(bool(arguments.get("deidentify")), str(arguments.get("retain", "")))
