"""Two executors, each a process of its own: what a factorization sends between them, and the loss of one of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.svd.spark_cluster_program import COLUMNS, DEADLY_PASS, EXECUTORS, OVERSAMPLE, POWER_ITERS, RANK

CHECKOUT = Path(__file__).parents[2]

pytestmark = pytest.mark.java


@pytest.fixture(scope="module")
def observed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the program once, which takes most of a minute, and return what it printed."""
    folder = tmp_path_factory.mktemp("cluster")
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "SPARK_LOCAL_IP": "127.0.0.1"}
    environment |= {"SPARK_WORKER_DIR": str(folder / "work"), "SPARK_LOCAL_DIRS": str(folder / "local")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.svd.spark_cluster_program", str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("engine", ["spark", "mahout"])
def test_the_traffic_of_a_product_is_one_sum_of_each_executor_and_grows_with_the_columns_and_not_their_square(
    engine: str, observed: dict[str, Any]
) -> None:
    sent = dict(zip(COLUMNS, observed[engine], strict=True))
    for n in COLUMNS:
        sums = EXECUTORS * (POWER_ITERS + 1) * n * (RANK + OVERSAMPLE) * 8
        assert sums <= sent[n] <= 1.3 * sums
    few, many = COLUMNS
    assert sent[many] <= 1.1 * many / few * sent[few]


def test_a_run_that_loses_an_executor_in_the_middle_of_a_pass_gives_the_same_bits(observed: dict[str, Any]) -> None:
    assert observed["visits"] > DEADLY_PASS + POWER_ITERS, "the block was not read again"
    assert observed["equal"]
