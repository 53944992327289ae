"""Matrices in real stores."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from components.matrix.store import COLUMN_CHUNK, MatrixStore, MatrixWriter, Series, absent
from components.svd.engines.mahout import REQUIRED_CONF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray


JAR = Path(__file__).parents[3] / "images" / "spark" / "mahout" / "target" / "ctbasis-mahout.jar"


def write_matrix(uri: str, A: NDArray[Any]) -> MatrixStore:
    """Put A, (m, n), into a matrix store of one series, nothing set aside."""
    m, n = A.shape
    writer = MatrixWriter.create(uri, image=(m, 1), cols=n, dtype=A.dtype)
    for start in range(0, n, COLUMN_CHUNK):
        columns = slice(start, min(n, start + COLUMN_CHUNK))
        part = A[:, columns]
        writer.write(slice(0, m), columns, part, np.full_like(part, absent(A.dtype)))
    writer.finish(series=[Series("1.2.3", 0, n)], headers=[b"header"] * n)
    return MatrixStore.open(uri)


@pytest.fixture
def store_matrix(tmp_path: Path) -> Callable[..., MatrixStore]:
    """Return a function that puts an array into a matrix store and opens it."""

    def store(A: NDArray[Any], *, name: str = "matrix.zarr") -> MatrixStore:
        return write_matrix(str(tmp_path / name), A)

    return store


@pytest.fixture(scope="session")
def spark_application() -> Iterator[None]:
    """Start Spark once, with Mahout's settings too: a process has one session, and Mahout's tests may get this one."""
    if not JAR.exists():
        pytest.fail(f"{JAR.name} is absent; `make setup` builds it")
    from pyspark.sql import SparkSession

    os.environ["PYSPARK_PYTHON"] = sys.executable
    settings = {
        **REQUIRED_CONF,
        "spark.jars": str(JAR),
        "spark.driver.memory": "1g",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
    }
    builder = SparkSession.builder.master("local[2]")
    for key, value in settings.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    yield
    session.stop()
