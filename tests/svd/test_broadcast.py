"""Arrays reach the tasks of a Spark application that encrypts its files, as the SparkApplication makes it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ctbasis.installed import LAYOUT

CHECKOUT = Path(__file__).parents[2]

PROGRAM = """
import numpy as np
from pyspark import SparkConf, SparkContext
from ctbasis.svd.engines.spark_broadcast import broadcast
from ctbasis.svd.engines.spark_tasks import SharedMerge, combined
from tests.svd.large_pass import LargePass

conf = {
    "spark.master": "local[1]",
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.authenticate": "true",
    "spark.network.crypto.enabled": "true",
    "spark.io.encryption.enabled": "true",
}
spark = SparkContext(conf=SparkConf().setAll(list(conf.items())))
value = {"array": np.arange(100_000.0).reshape(1000, 100), "name": "x"}
shared = broadcast(spark, value)
total, name = spark.parallelize([0], 1).map(lambda _: (shared.value["array"].sum(), shared.value["name"])).first()
print(float(total), name)

# More than the sockets between the JVM and this program hold, in a pass whose results this program merges.
work = broadcast(spark, LargePass())
parts = spark.parallelize(range(3), 3).map(lambda task: (work.value.ones[:1] * task,))
print(float(combined(parts, SharedMerge(work))[0][0]))
"""


@pytest.mark.java
def test_large_arrays_reach_the_tasks_and_the_driver_of_an_application_that_encrypts_its_files() -> None:
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": LAYOUT.python_path(str(CHECKOUT))}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["4999950000.0", "x", "5.0"]


def test_no_other_module_broadcasts() -> None:
    calling = [path.name for path in LAYOUT.package.rglob("*.py") if ".broadcast(" in path.read_text()]
    assert calling == ["spark_broadcast.py"]
