"""The build hook of the wheel and the sdist: puts the compiled pipelines, the manifests and the Mahout jar into them.

A hook and no table of pyproject.toml, for two reasons. An editable install, as `uv sync` makes it, must work before
`make setup` has built the jar, so it is not asked for it. And a missing jar is refused with the command that builds it.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

JAR = "images/spark/mahout/target/ctbasis-mahout.jar"

DATA = {
    "pipeline/denoise.yaml": "ctbasis/data/pipeline/denoise.yaml",
    "pipeline/cohort.yaml": "ctbasis/data/pipeline/cohort.yaml",
    "manifests": "ctbasis/data/manifests",
}
"""Files of the checkout, and where ctbasis/installed.py looks for them in the wheel."""

JAR_TEXTS = {
    "META-INF/LICENSE.txt": "ctbasis-mahout.LICENSE.txt",
    "META-INF/NOTICE.txt": "ctbasis-mahout.NOTICE.txt",
}
"""Mahout's licence and notice in the jar, and their names beside it."""


class DataHook(BuildHookInterface[Any]):
    """Adds what ctbasis/installed.py looks for."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the files to `build_data`.

        Args:
            version: The kind of build: `standard` or `editable`.
            build_data: What hatchling is about to pack; changed in place.
        """
        if version == "editable":
            return
        root = Path(self.root)
        jar = root / JAR
        if not jar.is_file():
            self.app.abort(
                f"{JAR} is missing\n"
                f"  expected: the Mahout jar, which the {self.target_name} holds\n"
                "  likely cause: it has not been built in this checkout\n"
                "  remedy: run `make setup`, which builds the jar, and build again"
            )
        if self.target_name == "sdist":
            build_data["force_include"][str(jar)] = JAR
            return
        for source, target in DATA.items():
            build_data["force_include"][str(root / source)] = target
        build_data["force_include"][str(jar)] = f"ctbasis/data/jars/{jar.name}"
        self._scratch = tempfile.TemporaryDirectory(prefix="ctbasis-build-")
        with zipfile.ZipFile(jar) as archive:
            for member, name in JAR_TEXTS.items():
                text = Path(self._scratch.name) / name
                text.write_bytes(archive.read(member))
                build_data["force_include"][str(text)] = f"ctbasis/data/jars/{name}"

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - hatchling's
        """Remove the files that were made for this build."""
        scratch = getattr(self, "_scratch", None)
        if scratch is not None:
            scratch.cleanup()
