"""What `ctbasis bench svd` factors, and who does it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ctbasis.bench.contenders import CONTENDERS
from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Sequence

NOT_STOCK = tuple(name for name in CONTENDERS if name not in {"bare-read", "mahout-stock"})
"""Mahout's own kernels take minutes where all others take seconds; they have a smaller case of their own."""


@dataclass(frozen=True)
class Case:
    """One matrix, made or read, and one factorization of it by several contenders in turn.

    Attributes:
        name: What the user calls it.
        rows: m of a made matrix.
        cols: n of it.
        dtype: Of it on disk: float64, float32 or int16.
        rank: k.
        oversample: p.
        power_iters: q.
        memory: That the engine numpy may take, as the user writes it.
        contenders: Who factors, in this order; those of `CONTENDERS`.
        distinct: Row blocks that differ, after which they come again by hard links; 0 for all.
        runs: Of each contender in one process, the fastest of which counts.
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

CASES = (
    Case("float64"),
    Case("int16", dtype="int16", contenders=("bare-blas", "scikit-learn", "numpy", "spark")),
    Case("rank-50", rank=50, contenders=("bare-blas", "scikit-learn", "dask", "numpy", "spark", "mahout")),
    Case("stock", rows=65_536, rank=50, contenders=("bare-blas", "scikit-learn", "mahout", "mahout-stock")),
    # More columns than the exact method is taken for.
    Case("wide", rows=16_384, cols=6000, dtype="int16", rank=50, contenders=("scikit-learn", "dask", "numpy", "spark")),
    # What grows with the rows shows once what a first run takes beside it is left out: a cold JVM above all.
    *(
        Case(
            GROWTH,
            rows=1 << power,
            dtype="int16",
            rank=50,
            contenders=("bare-blas", "numpy", "spark"),
            distinct=8,
            runs=runs,
        )
        for power, runs in ((16, 16), (18, 8), (20, 4), (22, 2))
    ),
    # 40 GB. A block comes again after 32 of them, so that no disk has to hold it.
    Case(
        OUT_OF_CORE,
        rows=1 << 26,
        dtype="int16",
        rank=20,
        memory="3GiB",
        contenders=("bare-read", "bare-blas", "numpy"),
        distinct=32,
    ),
)

USUAL = tuple(dict.fromkeys(case.name for case in CASES if case.name != OUT_OF_CORE))
"""Cases of a run that names none: out-of-core takes a quarter of an hour, and is named."""


def chosen_cases(names: Sequence[str], own: dict[str, Any], *, series: bool) -> list[Case]:
    """Return what is to be run.

    Args:
        names: Of `CASES`; none for `USUAL`, unless the user describes a case.
        own: What the user says of a case of his own: attributes of `Case`.
        series: Whether the matrix is that of a series, of which one case is run.

    Raises:
        CtbasisError: A name or a contender is unknown, or names come with a case of one's own.
    """
    for given, known, what in (
        (names, tuple(dict.fromkeys(case.name for case in CASES)), "case"),
        (own.get("contenders", ()), CONTENDERS, "engine"),
    ):
        unknown = sorted(set(given) - set(known))
        if unknown:
            raise CtbasisError(f"{what} {', '.join(unknown)} is unknown", expected=f"some of {', '.join(known)}")
    if series:
        return [replace(Case("series", rank=50), **own)]
    if own and names:
        raise CtbasisError("--case comes with a case of one's own", expected="either", remedy="leave out --case")
    return [Case(**own)] if own else [case for case in CASES if case.name in (names or USUAL)]
