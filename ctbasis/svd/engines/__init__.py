"""The engines that factor A. Each is a plugin: one module here and one row in `ctbasis/choices.py`.

An engine is a module with two functions. The first factors a matrix; its workers write every row block of U through
`factors.write_block`, and it returns the small factors:

    factorize(matrix: MatrixStore, factors: FactorWriter, plan: Plan) -> Spectrum

The second is a context manager that gives the engine's workers to other computations, such as patch mode:

    open_workers(cluster: str, memory: int) -> WorkersFactory
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, cast

from ctbasis import choices
from ctbasis.errors import CtbasisError

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from ctbasis.matrix.store import MatrixStore
    from ctbasis.svd.factors import FactorWriter
    from ctbasis.svd.plan import Plan
    from ctbasis.svd.spectrum import Spectrum
    from ctbasis.svd.workers import WorkersFactory


class Factorize(Protocol):
    """The signature of an engine."""

    def __call__(self, matrix: MatrixStore, factors: FactorWriter, plan: Plan) -> Spectrum:
        """Factor `matrix` by `plan`, write U to `factors` and return s and V."""
        ...


@dataclass(frozen=True)
class Engine:
    """One engine.

    Attributes:
        module: Name of the engine's module.
        on_spark: Whether the engine runs inside a Spark application.
        summary: Description in a few words.
    """

    module: str
    on_spark: bool
    summary: str

    def load(self) -> Factorize:
        """Import the engine's module and return its `factorize`.

        Raises:
            CtbasisError: The engine needs a package that is not installed.
        """
        return cast("Factorize", importlib.import_module(self.module).factorize)

    def open_workers(self, cluster: str = "", memory: int = 0) -> AbstractContextManager[WorkersFactory]:
        """Import the engine's module and return the context manager that yields its workers.

        Args:
            cluster: Address of the engine's own cluster; empty for the one of its environment, or this machine.
            memory: Bytes that the engine numpy may take; 0 for a share of the free memory.

        Raises:
            CtbasisError: The engine needs a package that is not installed, or its cluster does not answer.
        """
        open_workers: Callable[..., AbstractContextManager[WorkersFactory]]
        open_workers = importlib.import_module(self.module).open_workers
        return open_workers(cluster, memory)


ENGINES = {
    name: Engine(entry.module, on_spark=entry.on_spark, summary=entry.summary)
    for name, entry in choices.ENGINES.items()
}


def engine_named(name: str) -> Engine:
    """Return the engine called `name`.

    Raises:
        CtbasisError: There is no engine of that name.
    """
    try:
        return ENGINES[name]
    except KeyError:
        raise CtbasisError(f"engine {name!r} is unknown", expected=f"one of {', '.join(['auto', *ENGINES])}") from None
