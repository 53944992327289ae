"""Spark tasks: how many a pass has, and the order in which their results are combined."""

from __future__ import annotations

from functools import reduce
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ctbasis.svd.engines.spark_tasks import add_pieces, combined, configured_slots, cut, task_count
from ctbasis.svd.passes import TriangularFactor, add

if TYPE_CHECKING:
    import random

    from numpy.typing import NDArray

    from ctbasis.svd.passes import Parts


def result_of(task: int, columns: int = 40) -> Parts:
    """Return the result of a task: arrays of three shapes, whose sums depend on the order of addition."""
    rng = np.random.default_rng(task)
    scale = 10.0 ** rng.integers(-6, 6)
    return scale * rng.standard_normal((300, columns)), np.asarray(rng.standard_normal()), np.array([task, 1])


@pytest.mark.parametrize(("local", "most"), [(False, 1), (True, 3)])
@given(blocks=st.integers(1, 10**6), cores=st.integers(1, 1000))
def test_a_pass_has_one_task_for_each_core_and_more_only_where_they_send_nothing(
    blocks: int, cores: int, most: int, *, local: bool
) -> None:
    count = task_count(blocks, cores, local=local)
    assert min(blocks, cores) <= count <= min(blocks, most * cores)


@settings(max_examples=30)
@given(tasks=st.integers(1, 9), most=st.integers(1, 9), order=st.randoms(use_true_random=False))
def test_pieces_are_added_in_the_order_of_their_tasks_whatever_the_order_in_which_they_arrive(
    tasks: int, most: int, order: random.Random
) -> None:
    results = [result_of(task) for task in range(tasks)]
    arrived = [piece for task, parts in enumerate(results) for piece in cut(most, (task, parts))]
    order.shuffle(arrived)
    numbers = sorted({number for number, _ in arrived})
    assert numbers == list(range(len(numbers)))
    assert len(numbers) <= most
    sums = [next(add_pieces(piece for piece in arrived if piece[0] == number)) for number in numbers]
    expected = np.concatenate([array.ravel() for array in reduce(add, [result_of(task) for task in range(tasks)])])
    np.testing.assert_array_equal(np.concatenate([values for _, values in sums]), expected)
    assert sums[0][0] == tuple((array.shape, str(array.dtype)) for array in results[0])


def test_a_piece_is_not_small() -> None:
    pieces = list(cut(100, (0, (np.ones((1000, 65)),))))
    assert [len(values) for _, (_, _, values) in pieces] == [9286] * 5 + [9285] * 2


@pytest.mark.java
@pytest.mark.filterwarnings("ignore:unclosed.*socket:ResourceWarning")
@pytest.mark.usefixtures("spark_application")
@pytest.mark.parametrize("tasks", [3, 18])
def test_results_are_combined_in_the_order_of_the_tasks(tasks: int) -> None:
    from pyspark import SparkContext

    # The first number is combined by the driver on this machine, and the second by executors.
    parts = SparkContext.getOrCreate().parallelize(range(2 * tasks), tasks).map(result_of)
    expected = reduce(add, [add(result_of(2 * task), result_of(2 * task + 1)) for task in range(tasks)])
    for total, array in zip(combined(parts, add), expected, strict=True):
        np.testing.assert_array_equal(total, array)
        assert total.dtype == array.dtype


@pytest.mark.java
@pytest.mark.filterwarnings("ignore:unclosed.*socket:ResourceWarning")
@pytest.mark.usefixtures("spark_application")
def test_results_that_are_no_sums_are_combined_in_a_tree() -> None:
    from pyspark import SparkContext

    A = np.random.default_rng(0).standard_normal((18 * 7, 5))
    work = TriangularFactor()

    def factor_of(block: int) -> tuple[NDArray[Any], ...]:
        return work(slice(0), A[7 * block : 7 * block + 7])

    ((R),) = combined(SparkContext.getOrCreate().parallelize(range(18), 18).map(factor_of), work.merge)
    np.testing.assert_allclose(R.T @ R, A.T @ A, atol=1e-12)


@pytest.mark.parametrize(
    ("master", "slots", "conf"),
    [
        ("k8s://https://host", 6, {"spark.executor.instances": "6"}),
        ("k8s://https://host", 24, {"spark.executor.instances": "6", "spark.executor.cores": "4"}),
        (
            "k8s://https://host",
            6,
            {"spark.executor.instances": "6", "spark.executor.cores": "4", "spark.task.cpus": "4"},
        ),
        (
            "k8s://https://host",
            16,
            {"spark.dynamicAllocation.enabled": "true", "spark.dynamicAllocation.maxExecutors": "16"},
        ),
        ("k8s://https://host", 0, {"spark.dynamicAllocation.enabled": "true"}),
        ("k8s://https://host", 0, {}),
        ("spark://host:7077", 0, {"spark.executor.instances": "6"}),
        ("spark://host:7077", 3, {"spark.cores.max": "6", "spark.task.cpus": "2"}),
        ("local-cluster[4,2,1024]", 8, {}),
        ("local[4]", 0, {"spark.cores.max": "6"}),
    ],
)
def test_the_number_of_tasks_comes_from_the_settings_that_the_cluster_manager_obeys(
    master: str, slots: int, conf: dict[str, str]
) -> None:
    from pyspark import SparkConf

    assert configured_slots(SparkConf(loadDefaults=False).setAll(list(conf.items())), master) == slots
