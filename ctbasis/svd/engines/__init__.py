"""The engines that factor A, each a plugin: one file here and one row in `ENGINES`.

An engine is a module with one function of the signature

    factorize(matrix: MatrixStore, factors: FactorWriter, plan: Plan) -> Spectrum

It writes every row block of U through `factors.write_block`, by its own workers, and returns the small rest. What is to
be done by its workers alone, as in patch mode, gets them from the context

    gathered(cluster: str, memory: int) -> Gather
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from ctbasis.matrix.store import MatrixStore
    from ctbasis.svd.factors import FactorWriter
    from ctbasis.svd.plan import Plan
    from ctbasis.svd.spectrum import Spectrum
    from ctbasis.svd.workers import Gather


class Factorize(Protocol):
    """The signature of an engine."""

    def __call__(self, matrix: MatrixStore, factors: FactorWriter, plan: Plan) -> Spectrum:
        """Factor `matrix` by `plan`, write U to `factors`, return s and V."""
        ...


@dataclass(frozen=True)
class Engine:
    """A row of the table: where the plugin is, and whether it runs inside a Spark application."""

    module: str
    on_spark: bool
    summary: str

    def load(self) -> Factorize:
        """Import the plugin; its packages are needed only now."""
        return cast("Factorize", importlib.import_module(self.module).factorize)

    def gathered(self, cluster: str = "", memory: int = 0) -> AbstractContextManager[Gather]:
        """Return the context that its workers are had in."""
        gather: Callable[..., AbstractContextManager[Gather]] = importlib.import_module(self.module).gathered
        return gather(cluster, memory)


ENGINES = {
    "mahout": Engine("ctbasis.svd.engines.mahout", on_spark=True, summary="Apache Mahout's DS-SVD on Spark"),
    "spark": Engine("ctbasis.svd.engines.spark", on_spark=True, summary="NumPy blocks on plain Spark"),
    "dask": Engine("ctbasis.svd.engines.dask", on_spark=False, summary="NumPy blocks on a Dask cluster"),
    "ray": Engine("ctbasis.svd.engines.ray", on_spark=False, summary="NumPy blocks on a Ray cluster"),
    "numpy": Engine("ctbasis.svd.engines.numpy", on_spark=False, summary="NumPy on one machine, within --memory"),
}


def engine_named(name: str) -> Engine:
    """Return the engine called `name`.

    Raises:
        CtbasisError: There is none of that name.
    """
    try:
        return ENGINES[name]
    except KeyError:
        raise CtbasisError(f"engine {name!r} is unknown", expected=f"one of {', '.join(['auto', *ENGINES])}") from None
