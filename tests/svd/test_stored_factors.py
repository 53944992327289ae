"""A build gives the factors that the build of Spark 3.5 on Scala 2.12 gave: the same seed is the same Omega."""

from __future__ import annotations

import numpy as np
import pytest

from tests.svd.stored_factors import RUNS, Run, computed, read

pytestmark = [
    pytest.mark.java,
    # PySpark leaves the sockets of its results to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed.*socket:ResourceWarning"),
    pytest.mark.usefixtures("spark_application"),
]


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_factors_are_those_of_the_stored_build(run: Run) -> None:
    stored = read()
    for name, values in computed(run).items():
        expected = stored[f"{run} {name}"]
        # Mahout's Cholesky factor of Y^T Y and eigen(B B^T) square the condition number of the matrix, about 30.
        np.testing.assert_allclose(values, expected, rtol=1e-9, atol=1e-9, err_msg=f"{run}: {name}")


def test_without_power_iterations_the_stored_factors_depend_on_omega() -> None:
    stored = read()
    exact = stored["spark exact q=1 s"]
    for engine in ("mahout auto", "spark randomized"):
        assert (stored[f"{engine} q=0 s"] < exact * (1 - 1e-5)).all()
        np.testing.assert_allclose(stored[f"{engine} q=2 s"], exact, rtol=1e-2)
