"""The demo: a low-dose chest phantom on a real S3 server, through the whole compiled pipeline, with the truth known."""

from __future__ import annotations

import os
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ctbasis.demo.s3server import S3Server
from ctbasis.kubeflow.local import LocalRun, run
from ctbasis.simulate.dose import simulate_low_dose
from ctbasis.simulate.phantom import write_chest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BUCKET = "s3://ctbasis-demo"

PHOTONS = 3e3
"""Of each detector element without a patient: heavy noise, where keeping few basis vectors gains more than it costs."""


def demo(out: Path, *, photons: float = PHOTONS, slices: int = 301, edge: int = 256, seed: int = 0) -> LocalRun:
    """Make the phantom, insert the noise, serve both copies from S3 and denoise the noisy one into `out`.

    Args:
        out: Folder to make, as of `ctbasis.kubeflow.local.run`.
        photons: I0 of the simulated dose.
        slices: Of the phantom, 1 mm apart; 301 is enough for every rank of the talk's Figure 1.
        edge: Rows and columns.
        seed: Of the phantom and of the noise.
    """
    with tempfile.TemporaryDirectory(prefix="ctbasis-demo-") as scratch, S3Server() as server:
        clean, noisy = Path(scratch) / "clean", Path(scratch) / "low-dose"
        _say("making the chest phantom (a stand-in for a patient)")
        write_chest(clean, slices=slices, rows=edge, columns=edge, seed=seed)
        _say(f"inserting the noise of a low dose ({photons:g} photons) in the projection domain")
        simulate_low_dose(clean, noisy, photons=photons, seed=seed)
        _say(f"uploading both copies to {server.endpoint}")
        for folder in (clean, noisy):
            server.put_folder(folder, f"{BUCKET}/{folder.name}")
        with environment(server.environment()):
            return run({"source": f"{BUCKET}/{noisy.name}", "truth": f"{BUCKET}/{clean.name}", "seed": seed}, out=out)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables inside the `with`, as a user's shell would, for the steps' processes to inherit."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _say(line: str) -> None:
    sys.stderr.write(f"demo: {line}\n")
    sys.stderr.flush()
