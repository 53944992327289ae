"""`ctbasis bench traffic` but for Spark: its matrices, what it reads from an event log, and its page."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ctbasis.bench.event_log import Spent
from ctbasis.bench.matrices import DIRECTIONS, NOISE, STRENGTH, write_low_rank
from ctbasis.bench.traffic import TrafficCase
from ctbasis.bench.traffic_page import write_traffic_page
from ctbasis.errors import CtbasisError
from ctbasis.matrix import store

if TYPE_CHECKING:
    from pathlib import Path


def test_a_matrix_of_many_columns_has_the_documented_directions_and_noise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "BLOCK_ELEMENTS", 1)
    m, n = 1000, 600
    matrix = write_low_rank(str(tmp_path / "m"), rows=m, cols=n, dtype="int16")
    A = np.vstack([matrix.read_block(index) for index in range(matrix.block_count)])
    assert matrix.dtype == np.int16
    assert np.array_equal(matrix.read_columns(slice(None)), A)
    assert np.sqrt(np.mean(A**2)) == pytest.approx(STRENGTH, rel=0.1)
    s = np.linalg.svd(A, compute_uv=False)
    expected = (
        np.sqrt(m * n) * STRENGTH / np.arange(1, DIRECTIONS + 1) / np.linalg.norm(1 / np.arange(1, DIRECTIONS + 1))
    )
    np.testing.assert_allclose(s[:10], expected[:10], rtol=0.15)
    # Uniform whole numbers up to NOISE, and rounding.
    assert np.sqrt(np.mean(s[DIRECTIONS:] ** 2)) < NOISE * np.sqrt(m)


def task_end(executor: str, shuffled: int, result: int) -> str:
    metrics: dict[str, Any] = {"Shuffle Write Metrics": {"Shuffle Bytes Written": shuffled}, "Result Size": result}
    metrics |= {"Executor Run Time": 1500, "Executor CPU Time": 10**9, "JVM GC Time": 20}
    return json.dumps(
        {"Event": "SparkListenerTaskEnd", "Task Info": {"Executor ID": executor}, "Task Metrics": metrics}
    )


def test_the_bytes_of_an_event_log_are_added_up_by_executor() -> None:
    stage = {"Event": "SparkListenerStageExecutorMetrics", "Executor ID": "driver"}
    lines = [task_end("0", 100, 5), task_end("1", 30, 7), task_end("0", 20, 1)]
    lines += [json.dumps(stage | {"Executor Metrics": {"JVMHeapMemory": heap}}) for heap in (3, 9, 4)]
    lines += [json.dumps({"Event": "SparkListenerTaskEnd", "Task Info": {"Executor ID": "1"}})]
    spent = Spent.of(lines)
    assert dict(spent.shuffled) == {"0": 120, "1": 30}
    assert (spent.tasks, spent.results, spent.largest_shuffle, spent.largest_result) == (3, 13, 100, 7)
    assert spent.heap["driver"] == 9


def test_a_case_takes_what_the_user_describes_and_refuses_an_engine_that_is_not_on_spark() -> None:
    case = TrafficCase.of({"cols": 500, "executors": 3, "dtype": "int16", "contenders": ("mahout",)})
    assert (case.cols, case.executors, case.contenders, case.rows) == ((500,), 3, ("mahout",), 16_384)
    with pytest.raises(CtbasisError, match="the traffic of numpy cannot be measured"):
        TrafficCase.of({"contenders": ("numpy", "spark")})


def test_the_page_has_a_line_for_each_measurement_and_a_plot(tmp_path: Path) -> None:
    row = {"engine": "spark", "rows": 16_384, "executors": 2, "products": 3, "ratio": 1.04, "driver_mib": 2.0}
    rows = [
        {**row, "cols": n, "shuffle_mib": n / 300, "expected_mib": n / 320, "one_sum_mib": n / 2000}
        | {"driver_heap_mib": 80.0, "seconds": 21.5}
        for n in (1000, 4000)
    ]
    write_traffic_page(rows, tmp_path)
    page = (tmp_path / "traffic.md").read_text()
    assert "| spark | 4,000 | 13.3 | 12.5 | 1.04 |" in page
    assert (tmp_path / "traffic.png").read_bytes().startswith(b"\x89PNG")
