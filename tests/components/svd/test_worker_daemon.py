"""What Spark's Python workers are forked from."""

from __future__ import annotations

import sys
import zipfile
from importlib import import_module, invalidate_caches
from typing import TYPE_CHECKING
from zipimport import zipimporter

from components.svd.worker_daemon import forget_zip_files

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_importers_of_zip_files_are_forgotten_and_what_is_in_them_is_still_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "sources.zip"
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("first_of_zip.py", "")
        made.writestr("second_of_zip.py", "")
    monkeypatch.syspath_prepend(str(archive))
    import_module("first_of_zip")
    assert isinstance(sys.path_importer_cache[str(archive)], zipimporter)
    others = sum(not isinstance(importer, zipimporter) for importer in sys.path_importer_cache.values())
    forget_zip_files()
    assert len(sys.path_importer_cache) == others
    invalidate_caches()
    import_module("second_of_zip")
