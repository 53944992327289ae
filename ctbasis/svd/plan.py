"""What a factorization was asked to be and what the matrix lets it be: rank and oversampling against min(m, n)."""

from __future__ import annotations

from dataclasses import dataclass

from ctbasis.errors import CtbasisError

MODES = ("global", "patch")
"""What is factored. global: the matrix, a column a slice, the published method; patch: the matrix of its patches."""


METHODS = ("auto", "exact", "randomized", "single-pass")
"""How the block engines go about it; Mahout has its own way. auto: exact up to some thousands of slices."""


@dataclass(frozen=True)
class Plan:
    """The parameters of one factorization A ~ U diag(s) V^T, asked and run.

    Attributes:
        engine: Which engine ran it.
        rows: m.
        cols: n.
        rank_asked: k as asked.
        rank: k as run, at most min(m, n).
        oversample_asked: p as asked.
        oversample: p as run, at most min(m, n) - k: DS-SVD projects onto k + p columns and there are no more.
        power_iters: q.
        seed: Of the random test matrix Omega; None lets the engine draw one.
        method: A row of `METHODS`.
        memory: Bytes that an engine on one machine may take, 0 for a share of what is free.
        cluster: Address of the engine's own cluster, empty for what its environment says or for this machine.
        note: How the engine says it went about it, for the report.
    """

    engine: str
    rows: int
    cols: int
    rank_asked: int
    rank: int
    oversample_asked: int
    oversample: int
    power_iters: int
    seed: int | None = None
    method: str = "auto"
    memory: int = 0
    cluster: str = ""
    note: str = ""

    @property
    def clamps(self) -> list[str]:
        """What had to give way, in words for the user; empty where all is as asked."""
        full = min(self.rows, self.cols)
        said = []
        if self.rank < self.rank_asked:
            said.append(
                f"rank {self.rank_asked} was asked, {self.rank} is run: the matrix has {self.cols} slices, "
                "and at full rank nothing is removed"
            )
        if self.oversample < self.oversample_asked:
            said.append(
                f"oversample {self.oversample_asked} was asked, {self.oversample} is run: rank + oversample cannot "
                f"pass min(m, n) = {full}; this close to full rank the stochastic SVD is in effect the full one"
            )
        return said


def plan_factorization(
    *,
    engine: str,
    rows: int,
    cols: int,
    rank: int,
    oversample: int,
    power_iters: int,
    seed: int | None,
    method: str = "auto",
    memory: int = 0,
    cluster: str = "",
) -> Plan:
    """Fit the wanted parameters to an m x n matrix.

    Raises:
        CtbasisError: rank < 1, oversample < 0, power_iters < 0, an unknown method, or an empty matrix.
    """
    if method not in METHODS:
        raise CtbasisError(f"method {method!r} is unknown", expected=f"one of {', '.join(METHODS)}")
    for name, value, least in (("rank", rank, 1), ("oversample", oversample, 0), ("power_iters", power_iters, 0)):
        if value < least:
            raise CtbasisError(f"{name} is {value}", expected=f"a whole number, at least {least}")
    full = min(rows, cols)
    if full < 1:
        raise CtbasisError(f"the matrix is {rows} x {cols}", expected="at least one voxel and one slice")
    k = min(rank, full)
    return Plan(
        engine=engine,
        rows=rows,
        cols=cols,
        rank_asked=rank,
        rank=k,
        oversample_asked=oversample,
        oversample=min(oversample, full - k),
        power_iters=power_iters,
        seed=seed,
        method=method,
        memory=memory,
        cluster=cluster,
    )
