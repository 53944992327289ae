"""PySpark's daemon of Python workers, with what every task of ours imports already imported: `python -m` this.

Spark's `spark.python.daemon.module` names it (manifests/sparkapplication.yaml). A worker is forked from it, so that an
executor pays the import of NumPy and zarr once and not once a core, and holds one copy of their code. What is
imported is frozen: a worker collects garbage after each task, and would otherwise go through all of it each time,
which takes longer than a small task.
"""

from __future__ import annotations

import gc

import components.svd.passes
import components.svd.workers  # noqa: F401 - this is the point

if __name__ == "__main__":
    from pyspark.daemon import manager

    gc.collect()
    gc.freeze()
    manager()
