"""Check the manifests of the image as a MONAI Application Package with the code of Holoscan's `holoscan run`.

holoscan-cli up to version 3 has the commands `holoscan` and `monai-deploy`, which run packages. It gets an environment
of its own:

    uv venv map && uv pip install --python map 'holoscan-cli<4'
    map/bin/python tests/images/map_check.py

The tool reads the manifests and decides on mounts, variables, GPUs and shared memory. Instead of asking Docker for the
container, this program compares what it would ask for with the conventions of the image. No container is started. The
tool asks for NVIDIA's runtime and its drivers even for a package that needs no GPU; this program skips that.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

from holoscan_cli.common import dockerutils
from holoscan_cli.common.utils import get_requested_gpus
from holoscan_cli.runner.resources import get_shared_memory_size

MANIFESTS = Path(__file__).parents[2] / "images" / "steps" / "map"

FOLDERS = {"HOLOSCAN_INPUT_PATH": "/in", "HOLOSCAN_OUTPUT_PATH": "/out"}


class AskedError(Exception):
    """What the tool would have asked Docker for."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        self.settings = settings


def ask(_: str, **settings: Any) -> None:
    raise AskedError(**settings)


def main() -> None:
    app, package = (json.loads((MANIFESTS / name).read_text()) for name in ("app.json", "pkg.json"))
    assert get_requested_gpus(package) == 0
    shared = get_shared_memory_size(package, worker=False, driver=False, fragments="", user_shm_size="config")
    assert shared == 64 << 20
    nothing = dict.fromkeys(("name", "network_interface", "gpu_enum", "config", "platform_config"))
    flags = dict.fromkeys(("quiet", "health_check", "use_all_nics", "render", "terminal", "is_root", "remove"), False)
    asked: dict[str, Any] = {}
    with (
        patch.object(dockerutils.docker.container, "create", ask),
        patch.object(dockerutils, "get_gpu_count", lambda: 0),
        patch.object(dockerutils, "_additional_devices_to_mount", lambda _: ([], [])),
    ):
        try:
            dockerutils.docker_run(
                image_name="ctbasis/steps",
                input_path=Path("/in"),
                output_path=Path("/out"),
                app_info=app,
                pkg_info=package,
                commands=[],
                network="none",
                user="1000:1000",
                devices=[],
                shared_memory_size=shared,
                **nothing,
                **flags,
            )
        except AskedError as error:
            asked = error.settings
    mounted = dict(asked["volumes"])
    for variable, folder in FOLDERS.items():
        assert mounted[folder] == asked["envs"][variable] == app["environment"][variable].rstrip("/")
    assert asked["envs"]["HOLOSCAN_MODEL_PATH"] == package["modelRoot"]
    assert asked["command"] == []
    print("volumes", asked["volumes"], "workdir", asked["workdir"])  # noqa: T201 - the result of this program


if __name__ == "__main__":
    main()
