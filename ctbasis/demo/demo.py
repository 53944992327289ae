"""The demo: a low-dose chest phantom on a real S3 server, denoised in both modes and compared with the truth.

Both runs go through the whole compiled pipeline: one by the talk's method (global mode at rank 50, by Apache Mahout on
Spark where Java is installed), one in patch mode. The folder of the demo holds:

    demo.png        truth, input and both results in one picture, and what each run removed
    demo.json       errors against the truth, PSNR, SSIM and seconds of both runs
    denoised/, basis-images/, basis/, figure1.png, report.html, metrics.json, qc.json
                    outputs of the run in global mode, as of `ctbasis run`
    patch/          outputs of the run in patch mode
"""

from __future__ import annotations

import json
import os
import tempfile
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ctbasis.demo.comparison import Scores
from ctbasis.demo.s3server import S3Server
from ctbasis.kubeflow.local import LocalRun, run
from ctbasis.printable import say
from ctbasis.simulate.dose import Dose
from ctbasis.simulate.low_dose_series import simulate_low_dose
from ctbasis.simulate.phantom import check_phantom, write_chest
from ctbasis.storage.outputs import Results, list_files, replaced

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BUCKET = "s3://ctbasis-demo"

PHOTONS = 3e3
"""Photons per detector element without a patient: heavy noise, at which rank 50 removes more error than it adds."""

SLICES = 301
"""Slices, 1 mm apart: enough for every rank of the talk's Figure 1 (50, 244, 300)."""

EDGE = 128
"""Rows and columns of a slice, small enough that the demo takes less than 90 s on two cores."""

RANK = 50


@dataclass(frozen=True)
class Demo:
    """A demo that is complete.

    Attributes:
        out: Its folder.
        scores: Scores of the input and of both results, by name.
    """

    out: Path
    scores: dict[str, Scores]


def demo(out: Path, *, photons: float = PHOTONS, slices: int = SLICES, edge: int = EDGE, seed: int = 0) -> Demo:
    """Make the phantom, insert the noise, serve both copies from S3 and denoise the noisy one in both modes.

    Args:
        out: Folder for the results, as of `ctbasis.kubeflow.local.run`; the folder of a former demo is replaced.
        photons: I0 of the simulated dose, photons per detector element without a patient.
        slices: Number of slices, 1 mm apart.
        edge: Rows and columns of a slice.
        seed: Seed of the phantom, of the noise and of both runs.

    Raises:
        CtbasisError: A setting is out of bounds, `out` holds something else, the S3 server does not start, or a run
            failed.
    """
    # Matplotlib is slow to import, and `ctbasis bench` imports this module for its environment() alone.
    from ctbasis.demo.picture import write_picture

    # Refused before a server is started.
    Dose(photons, seed=seed)
    check_phantom(slices, edge, edge, seed=seed)
    with (
        replaced([out], ours=Results()) as (new,),
        tempfile.TemporaryDirectory(prefix="ctbasis-demo-") as scratch,
        S3Server() as server,
    ):
        clean, noisy = Path(scratch) / "clean", Path(scratch) / "low-dose"
        _report("making the chest phantom (a stand-in for a patient)")
        write_chest(clean, slices=slices, rows=edge, columns=edge, seed=seed)
        _report(f"inserting the noise of a low dose ({photons:g} photons) in the projection domain")
        simulate_low_dose(clean, noisy, photons=photons, seed=seed)
        _report(f"uploading both copies to {server.endpoint}")
        for folder in (clean, noisy):
            server.put_folder(folder, f"{BUCKET}/{folder.name}")
        arguments = {"source": f"{BUCKET}/{noisy.name}", "truth": f"{BUCKET}/{clean.name}", "seed": seed}
        with environment(server.environment()):
            _report(f"denoising by the talk's method: global mode, rank {RANK}")
            by_rank = run({**arguments, "mode": "global", "rank": str(RANK)}, out=new)
            _report("denoising the same series in patch mode")
            by_patches = run({**arguments, "mode": "patch"}, out=new / "patch")
        done = Demo(out, _scores(by_rank, by_patches))
        images = {"truth": clean, "low dose": noisy, "global": new / "denoised", "patch": new / "patch" / "denoised"}
        write_picture(new / "demo.png", images, done.scores)
        settings = {"photons": photons, "slices": slices, "edge": edge, "seed": seed}
        rows = {name: asdict(scores) for name, scores in done.scores.items()}
        (new / "demo.json").write_text(json.dumps({"phantom": settings, "scores": rows}, indent=2))
        list_files(new)
    return done


def _scores(by_rank: LocalRun, by_patches: LocalRun) -> dict[str, Scores]:
    metrics = [json.loads((done.out / "metrics.json").read_text()) for done in (by_rank, by_patches)]
    engines = [numbers["engine"] for numbers in metrics]
    return {
        "low dose": Scores.of(metrics[0]["before"]),
        f"global mode, rank {RANK} ({engines[0]})": Scores.of(metrics[0]["after"], by_rank.seconds),
        f"patch mode ({engines[1]})": Scores.of(metrics[1]["after"], by_patches.seconds),
    }


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


def _report(line: str) -> None:
    say(f"demo: {line}")
