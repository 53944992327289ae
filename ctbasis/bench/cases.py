"""Cases of `ctbasis bench svd`: the matrices, the factorizations, and the contenders that compute them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ctbasis.bench.contenders import CONTENDERS
from ctbasis.errors import CtbasisError
from ctbasis.parsing import parse_memory

if TYPE_CHECKING:
    from collections.abc import Sequence

NOT_STOCK = tuple(name for name in CONTENDERS if name not in {"bare-read", "mahout-stock"})
"""Contenders of most cases. Mahout's stock kernels take minutes where others take seconds, and have a smaller case."""

PEERS = ("scikit-learn", "scikit-learn-pca", "dask")
"""Contenders that are no engine of ctbasis."""


@dataclass(frozen=True)
class Case:
    """One matrix, generated or read, and its factorization by several contenders in turn.

    Attributes:
        name: Name on the command line.
        rows: Number of rows m of a generated matrix.
        cols: Number of columns n of a generated matrix.
        dtype: Data type on disk: float64, float32 or int16.
        rank: Rank k.
        oversample: Oversampling p.
        power_iters: Power iterations q.
        memory: Memory that the engine numpy may take, as the user writes it.
        contenders: Contenders in their order, some of `CONTENDERS`.
        distinct: Number of different row blocks, which then repeat as hard links; 0 if all differ.
        runs: Number of runs of each contender in one process; the fastest counts.
    """

    name: str = "own"
    rows: int = 262_144
    cols: int = 300
    dtype: str = "float64"
    rank: int = 244
    oversample: int = 15
    power_iters: int = 2
    memory: str = ""
    contenders: Sequence[str] = NOT_STOCK
    distinct: int = 0
    runs: int = 1


GROWTH = "growth"
OUT_OF_CORE = "out-of-core"
COHORT = "cohort"
"""Names of cases that are treated differently."""

CASES = (
    Case("float64"),
    Case("int16", dtype="int16", contenders=("bare-blas", "scikit-learn", "scikit-learn-pca", "numpy", "spark")),
    Case("rank-50", rank=50, contenders=("bare-blas", *PEERS, "numpy", "spark", "mahout")),
    Case("stock", rows=65_536, rank=50, contenders=("bare-blas", "scikit-learn", "mahout", "mahout-stock")),
    # More columns than those for which the exact method is chosen.
    Case("wide", rows=16_384, cols=6000, dtype="int16", rank=50, contenders=("scikit-learn", "dask", "numpy", "spark")),
    # Several runs, because the cost of a first run (a cold JVM above all) hides the growth with the number of rows.
    *(
        Case(
            GROWTH,
            rows=1 << power,
            dtype="int16",
            rank=50,
            contenders=("bare-blas", "numpy", "spark", "mahout"),
            distinct=8,
            runs=runs,
        )
        for power, runs in ((16, 16), (18, 8), (20, 4), (22, 2))
    ),
    # 40 GB. Blocks repeat after 32, so that the disk does not have to hold all of them.
    Case(
        OUT_OF_CORE,
        rows=1 << 26,
        dtype="int16",
        rank=20,
        memory="3GiB",
        contenders=("bare-read", "bare-blas", "numpy"),
        distinct=32,
    ),
    # 16 GB: a quarter of a thousand patients in one matrix. --rows and --cols describe a smaller one.
    Case(
        COHORT,
        cols=32_000,
        dtype="int16",
        rank=50,
        memory="6GiB",
        contenders=("bare-read", "bare-blas", "numpy", "spark"),
    ),
)

USUAL = tuple(dict.fromkeys(case.name for case in CASES if case.name not in {OUT_OF_CORE, COHORT}))
"""Cases that run by default; out-of-core and cohort take a quarter of an hour or more, and run only if named."""


def chosen_cases(names: Sequence[str], own: dict[str, Any], *, series: bool) -> list[Case]:
    """Return the cases to run.

    Args:
        names: Names of `CASES`; by default those of `USUAL`, or the case that the user describes.
        own: Attributes of `Case` that the user describes.
        series: Whether the matrix is that of a CT series, for which one case is run.

    Raises:
        CtbasisError: A name or a contender is unknown, the memory is no size, or both names and a described case are
            given.
    """
    for given, known, what in (
        (names, tuple(dict.fromkeys(case.name for case in CASES)), "case"),
        (own.get("contenders", ()), CONTENDERS, "engine"),
    ):
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise CtbasisError(f"{what} {', '.join(unknown)} is unknown", expected=f"some of {', '.join(known)}")
    if "memory" in own:
        parse_memory(own["memory"])
    if series:
        return [replace(Case("series", rank=50), **own)]
    if own and names:
        raise CtbasisError(
            "--case is given, and options that describe another case",
            expected="one of the two",
            remedy="leave out --case, or the other options",
        )
    return [Case(**own)] if own else [case for case in CASES if case.name in (names or USUAL)]
