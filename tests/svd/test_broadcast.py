"""Arrays reach the tasks of a Spark application that encrypts its files, as the SparkApplication makes it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ctbasis.installed import LAYOUT

PROGRAM = """
import numpy as np
from pyspark import SparkConf, SparkContext
from ctbasis.svd.engines.spark import broadcast

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
print(float(total), name, float(shared.value["array"][-1, -1]))
"""


@pytest.mark.java
def test_an_array_above_64_kib_reaches_the_tasks_of_an_application_that_encrypts_its_files() -> None:
    environment = {**os.environ, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": LAYOUT.python_path()}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["4999950000.0", "x", "99999.0"]


def test_no_other_module_broadcasts() -> None:
    calling = [path.name for path in LAYOUT.package.rglob("*.py") if ".broadcast(" in path.read_text()]
    assert calling == ["spark.py"]
