"""PySpark's daemon of Python workers, with what every task of ours imports already imported: `python -m` this.

Spark's `spark.python.daemon.module` names it (manifests/sparkapplication.yaml). A worker is forked from it, so that an
executor pays the import of NumPy and zarr once and not once a core, and holds one copy of their code. Two things that
a worker does with each task would otherwise take longer than a small task. It collects garbage: what is imported is
frozen, and not gone through. It invalidates the caches of importers: for those of Spark's zip files and jars, which it
has its own code from, that is to read their directories again, and so they are forgotten.
"""

from __future__ import annotations

import gc
import sys
from zipimport import zipimporter

import components.svd.engines.mahout  # noqa: F401 - this is the point


def forget_zip_files() -> None:
    """Drop the importers of zip files; one that is needed again is made again."""
    for path, importer in list(sys.path_importer_cache.items()):
        if isinstance(importer, zipimporter):
            del sys.path_importer_cache[path]


if __name__ == "__main__":
    from pyspark.daemon import manager

    forget_zip_files()
    gc.collect()
    gc.freeze()
    manager()
