"""The plan of a factorization: the parameters of the svd step, with rank and oversampling fitted to the matrix."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ctbasis.choices import AUTO
from ctbasis.errors import CtbasisError
from ctbasis.parameters import SEED_DRAWN, SvdPlan


@dataclass(frozen=True)
class Plan:
    """The parameters of one factorization A ~ U diag(s) V^T, as given and as run; the form in which stores keep it.

    Attributes:
        engine: Engine that runs it.
        rows: m.
        cols: n.
        rank_asked: k as given.
        rank: k as run, at most min(m, n).
        oversample_asked: p as given.
        oversample: p as run, at most min(m, n) - k: DS-SVD projects onto k + p columns and there are no more.
        power_iters: q.
        seed: Seed of the random test matrix Omega; None lets the engine draw one.
        method: One of `METHODS`.
        memory: Bytes that an engine on one machine may take, 0 for a share of the free memory.
        cluster: Address of the engine's own cluster; empty for the one of its environment, or this machine.
        note: How the engine proceeded, for the report.
        parameters: All parameters of the svd step as given. Stores do not keep them.
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
    method: str = AUTO
    memory: int = 0
    cluster: str = ""
    note: str = ""
    parameters: SvdPlan = field(default_factory=SvdPlan, compare=False, repr=False)

    def attributes(self) -> dict[str, Any]:
        """Return the plan as a store keeps it; `Plan(**attributes)` reads it."""
        return {name: value for name, value in vars(self).items() if name != "parameters"}

    @property
    def clamps(self) -> list[str]:
        """Messages about parameters that were reduced to fit the matrix; empty if none was."""
        full = min(self.rows, self.cols)
        messages = []
        if self.rank < self.rank_asked:
            messages.append(
                f"rank {self.rank_asked} is reduced to {self.rank}, the full rank of a matrix of {self.rows} x "
                f"{self.cols}; at full rank nothing is removed"
            )
        if self.oversample < self.oversample_asked:
            messages.append(
                f"oversample {self.oversample_asked} is reduced to {self.oversample}, because rank + oversample cannot "
                f"exceed min(m, n) = {full}; so close to full rank, the stochastic SVD computes the full SVD"
            )
        return messages


def fit_plan(parameters: SvdPlan, *, rows: int, cols: int) -> Plan:
    """Fit the parameters of the svd step to a matrix of `rows` x `cols`.

    Raises:
        CtbasisError: The rank is a rule, which is resolved before a factorization, or the matrix is empty.
    """
    mode = parameters.global_mode
    rank = mode.rank_or_rule
    if not isinstance(rank, int):
        raise CtbasisError(f"rank is {rank}", expected="a whole number, at least 1; the svd step resolves rules")
    full = min(rows, cols)
    if full < 1:
        raise CtbasisError(f"the matrix is {rows} x {cols}", expected="at least one voxel and one slice")
    k = min(rank, full)
    return Plan(
        engine=parameters.engine,
        rows=rows,
        cols=cols,
        rank_asked=rank,
        rank=k,
        oversample_asked=mode.oversample,
        oversample=min(mode.oversample, full - k),
        power_iters=mode.power_iters,
        seed=parameters.projection_seed,
        method=mode.method,
        memory=parameters.memory_bytes,
        cluster=parameters.cluster,
        parameters=parameters,
    )


def plan_factorization(
    *,
    engine: str,
    rows: int,
    cols: int,
    rank: int,
    oversample: int,
    power_iters: int,
    seed: int | None,
    method: str = AUTO,
    memory: int = 0,
    cluster: str = "",
) -> Plan:
    """Fit parameters that are given by name and parsed to an m x n matrix; see `fit_plan`.

    Args:
        engine: One of `ENGINES`.
        rows: m.
        cols: n.
        rank: k.
        oversample: p.
        power_iters: q.
        seed: Seed of the random test matrix Omega; None lets the engine draw one.
        method: One of `METHODS`.
        memory: Bytes that an engine on one machine may take, 0 for a share of the free memory.
        cluster: Address of the engine's own cluster.

    Raises:
        CtbasisError: rank < 1, oversample < 0, power_iters < 0, an unknown engine or method, or an empty matrix.
    """
    parameters = SvdPlan.of(
        engine=engine,
        rank=str(rank),
        oversample=oversample,
        power_iters=power_iters,
        seed=SEED_DRAWN if seed is None else seed,
        method=method,
        memory=str(memory) if memory else AUTO,
        cluster=cluster,
    )
    return fit_plan(parameters, rows=rows, cols=cols)
