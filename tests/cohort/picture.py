"""The picture of docs/how-to/cohort.md: the summary of a mixed cohort, as a browser shows it.

The cohort has chest phantoms of several sizes, with simulated noise of several kernels and doses, one of them broken,
and eight slices of each of two scans of patients that are published under CC BY: LIDC-IDRI-0001 (CC BY 3.0) and
Lung-PET-CT-Dx-A0001 (CC BY 4.0), if the folder of CTBASIS_TEST_DATA holds their archives. `make cohort-picture` runs
this program.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import pydicom
from PIL import Image
from playwright.sync_api import sync_playwright

from ctbasis.simulate.low_dose_series import simulate_low_dose
from ctbasis.simulate.phantom import write_chest
from ctbasis.simulate.projection import Kernel
from tests.browser import CHROMIUM
from tests.cohort.sources import break_pixels
from tests.conftest import REAL_DATA

if TYPE_CHECKING:
    from collections.abc import Iterator

CTBASIS = Path(sys.executable).with_name("ctbasis")
ARCHIVES = ("lidc-idri-0001", "lung-pet-ct-dx-a0001")
EDGES = (128, 96, 112)
PHOTONS = (2e4, 1e5)
SLICES = 8
SCREEN = {"width": 1400, "height": 1340}


def write_phantoms(source: Path) -> None:
    """Write phantoms: every kernel at every dose, of sizes in turn; the last one is broken."""
    for number, (kernel, photons) in enumerate((k, p) for k in get_args(Kernel) for p in PHOTONS):
        edge = EDGES[number % len(EDGES)]
        with tempfile.TemporaryDirectory() as clean:
            write_chest(Path(clean) / "clean", slices=SLICES, rows=edge, columns=edge, seed=number)
            simulate_low_dose(
                Path(clean) / "clean", source / f"phantom-{number:02}", photons=photons, kernel=kernel, seed=number
            )
        for path in (source / f"phantom-{number:02}").rglob("*.dcm"):
            ds = pydicom.dcmread(path)
            ds.ConvolutionKernel, ds.SeriesDescription = kernel, f"Phantom, {photons:.0e} photons, {edge} pixels"
            ds.PatientID = f"phantom-{number:02}"
            ds.save_as(path)
    break_pixels(source / f"phantom-{number:02}")


def write_scans(source: Path) -> None:
    """Unpack the middle slices of each published scan."""
    for name in ARCHIVES:
        archive = REAL_DATA / f"{name}.tar.xz"
        if not archive.exists():
            sys.stderr.write(f"{archive.name} is absent; the cohort has no series of this patient\n")
            continue
        with tempfile.TemporaryDirectory() as everything, tarfile.open(archive) as tar:
            tar.extractall(everything, filter="data")
            for number, path in enumerate(middle(Path(everything))):
                (source / name).mkdir(exist_ok=True)
                shutil.copyfile(path, source / name / f"{number:03}.dcm")


def middle(folder: Path) -> Iterator[Path]:
    """Yield SLICES files of the largest series below a folder, around its middle."""
    series: dict[str, list[tuple[float, Path]]] = {}
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        ds = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        if ds.get("Modality") == "CT" and "ImagePositionPatient" in ds:
            series.setdefault(ds.SeriesInstanceUID, []).append((float(ds.ImagePositionPatient[2]), path))
    largest = sorted(max(series.values(), key=len))
    start = max(0, (len(largest) - SLICES) // 2)
    yield from (path for _, path in largest[start : start + SLICES])


def photograph(page: Path, picture: Path) -> None:
    """Write what a browser shows of a page as a PNG with a palette."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which(CHROMIUM))
        opened = browser.new_page(viewport=SCREEN)  # type: ignore[arg-type]
        opened.goto(page.as_uri())
        # What the page states about the cohort names a temporary folder.
        opened.evaluate("document.querySelector('dl').remove()")
        shot = opened.screenshot()
        browser.close()
    with Image.open(BytesIO(shot)) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(picture, optimize=True)


def main(picture: Path) -> None:
    """Make the cohort, denoise it, and write the picture of its summary."""
    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch) / "source", Path(scratch) / "out"
        source.mkdir()
        write_phantoms(source)
        write_scans(source)
        code = subprocess.run([CTBASIS, "cohort", source, "--out", out, "--seed", "0"], check=False).returncode
        sys.stderr.write(f"ctbasis cohort ended with exit code {code}\n")
        photograph(out / "summary.html", picture)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
