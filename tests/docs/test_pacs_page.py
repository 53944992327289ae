"""The ten commands of docs/how-to/pacs.md do what the page says, with a real Orthanc."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import ctbasis
from ctbasis.demo.ports import free_ports
from tests.node.orthanc import program

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "pacs.md"

BLOCK = re.compile(r"^```sh (\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

SECONDS = 400


def test_the_commands_bring_a_denoised_series_into_orthanc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = dict(BLOCK.findall(PAGE.read_text(encoding="utf-8")))
    names = re.findall(r"^export (\w+)=", blocks["settings"], re.MULTILINE)
    phantom = ctbasis.chest_phantom(slices=6, rows=96, columns=96)
    ctbasis.write_series(ctbasis.simulate_dose(phantom, photons=4e3), tmp_path / "series")
    ctbasis.denoise(ctbasis.read(tmp_path / "series"), keep_basis=tmp_path / "basis")
    http, archive, node = map(str, free_ports(3))
    values = {
        "SERIES": str(tmp_path / "series"),
        "BASIS": str(tmp_path / "basis"),
        "HTTP_PORT": http,
        "ARCHIVE_PORT": archive,
        "NODE_PORT": node,
    }
    assert values.keys() == set(names)
    for tool in ("storescu", "echoscu", "curl"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed; .ci/repositories installs it")
    monkeypatch.chdir(tmp_path)
    path = f"{Path(sys.executable).parent}:{Path(program()).parent}:{os.environ['PATH']}"
    done = subprocess.run(
        # The page's jobs end with the shell, as `kill %1 %2` ends them.
        ["bash", "-euo", "pipefail", "-c", f"trap 'kill %1 %2; wait' EXIT\n{blocks['here']}"],
        env={**os.environ, **values, "PATH": path, "NO_PROXY": "*"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.strip().splitlines()[-2:]
    assert any("SVD of patches" in line for line in lines), done.stdout
