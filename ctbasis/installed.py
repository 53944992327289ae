"""Where the files lie that ctbasis needs besides its code: the compiled pipeline, the manifests, the Mahout jar.

There are three layouts:

| ctbasis is imported from | pipeline/ and manifests/ lie in | the jar lies in |
| --- | --- | --- |
| a checkout | the checkout | images/spark/mahout/target of the checkout, where `make setup` builds it |
| a container image | /opt/ctbasis | /opt/ctbasis/jars |
| an installed wheel | the folder `data` of the package | data/jars of the package |

Every other module asks this one; hatch_build.py puts the files into the wheel.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

VERSION = "0.1.0"
"""The version of ctbasis and of its images. tests/test_wheel.py compares the other places that state it."""

JARS_VARIABLE = "CTBASIS_JARS"
"""Environment variable: a folder that holds ctbasis-mahout.jar, used in place of the layout's own."""

IMAGE_ROOT = "/opt/ctbasis"
"""Where the images hold ctbasis. The SparkApplication names its files by paths below this folder."""


@dataclass(frozen=True)
class Layout:
    """The folders of one installation.

    Attributes:
        package: The Python package `ctbasis`.
        data: The folder that holds `pipeline` and `manifests`.
        jars: The folder of ctbasis-mahout.jar.
        import_path: The folder that a new Python process needs in PYTHONPATH to import `ctbasis`; None for an
            installed wheel, which Python finds by itself.
    """

    package: Path
    data: Path
    jars: Path
    import_path: Path | None

    @classmethod
    def around(cls, package: Path, environment: Mapping[str, str] = os.environ) -> Self:
        """Return the layout of the installation whose Python package is the folder `package`.

        Args:
            package: The folder `ctbasis`.
            environment: Environment variables; `CTBASIS_JARS` replaces the folder of the jar.
        """
        parent = package.parent
        wheel_data = package / "data"
        if wheel_data.is_dir():
            data, jars, import_path = wheel_data, wheel_data / "jars", None
        elif (parent / "pyproject.toml").is_file():
            data, jars, import_path = parent, parent / "images" / "spark" / "mahout" / "target", parent
        else:
            data, jars, import_path = parent, parent / "jars", parent
        return cls(package, data, Path(environment.get(JARS_VARIABLE, jars)), import_path)

    @property
    def compiled_pipeline(self) -> Path:
        """The compiled pipeline of one source, a KFP package."""
        return self.data / "pipeline" / "denoise.yaml"

    @property
    def compiled_cohort(self) -> Path:
        """The compiled pipeline of a cohort."""
        return self.data / "pipeline" / "cohort.yaml"

    @property
    def manifests(self) -> Path:
        """The folder of the Kubernetes manifests."""
        return self.data / "manifests"

    @property
    def spark_template(self) -> Path:
        """The SparkApplication that describes the Spark step."""
        return self.manifests / "sparkapplication.yaml"

    def python_path(self, inherited: str | None = None) -> str:
        """Return the PYTHONPATH of a new Python process that imports ctbasis.

        Args:
            inherited: The PYTHONPATH of this process, which is kept; by default it is read from the environment.
        """
        kept = os.environ.get("PYTHONPATH", "") if inherited is None else inherited
        return os.pathsep.join(filter(None, [str(self.import_path or ""), kept]))

    def local_file(self, image_path: str) -> Path:
        """Return the file that stands for a file of the images.

        Args:
            image_path: A path below `IMAGE_ROOT`, such as /opt/ctbasis/jars/ctbasis-mahout.jar. The file need not
                exist here.
        """
        relative = Path(image_path).relative_to(IMAGE_ROOT)
        first, *rest = relative.parts
        folder = {"jars": self.jars, self.package.name: self.package}.get(first, self.data / first)
        return folder.joinpath(*rest)


LAYOUT = Layout.around(Path(__file__).parent)
"""The layout of this installation."""
