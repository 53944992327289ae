"""Measures `ctbasis view` on 300 slices of 512 x 512 in headless Chromium: the first picture, and slices a second.

The files are the size of a chest CT: a noisy phantom, the same smoothed as the denoised series, and a map of sigma, so
that nothing must be denoised first. `make view-speed` runs this program.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil
from playwright.sync_api import sync_playwright
from scipy.ndimage import uniform_filter

from ctbasis.matrix.ingest import ingest
from tests.browser import CHROMIUM
from tests.viewer.files import write_files

if TYPE_CHECKING:
    from playwright.sync_api import Page

CTBASIS = Path(sys.executable).with_name("ctbasis")

SLICES, EDGE = 300, 512

SCROLLED = 100
"""Slices that are scrolled through."""


def write_result(folder: Path) -> None:
    """Write the source and the result below a folder."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[-1 : 1 : EDGE * 1j, -1 : 1 : EDGE * 1j]
    body = np.where(x**2 + y**2 < 0.8, np.where((np.abs(x) - 0.4) ** 2 + y**2 < 0.08, -850.0, 40.0), -1000.0)
    names = ("source", "out/denoised", "out/noise")
    for index in range(SLICES):
        noisy = body + rng.normal(0, 40, body.shape)
        images = (noisy, uniform_filter(noisy, 3), np.full(body.shape, 40.0))
        for name, image in zip(names, images, strict=True):
            write_files(folder / name, image[np.newaxis], first=index)
    ingest(folder / "source", str(folder / "matrix.zarr"), folder / "out" / "qc.json")
    (folder / "out" / "metrics.json").write_text(json.dumps({"mode": "patch"}))


def scroll(page: Page) -> float:
    """Scroll through slices as fast as they are shown, and return slices a second."""
    seconds: float = page.evaluate(
        """async (count) => {
          const shown = () => viewer.root.dataset.shown;
          const start = performance.now(), first = viewer.index;
          for (let step = 1; step <= count; step++) {
            const next = (first + step) % viewer.study.planes.axial.count;
            viewer.go(next);
            while (shown() !== "axial " + next) await new Promise((done) => setTimeout(done));
            await new Promise((done) => requestAnimationFrame(done));
          }
          return (performance.now() - start) / 1000;
        }""",
        SCROLLED,
    )
    return SCROLLED / seconds


def main() -> None:
    """Write the files unless CTBASIS_VIEW_FILES names a folder that has them, and measure."""
    given = os.environ.get("CTBASIS_VIEW_FILES", "")
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as driver:
        folder = Path(given or scratch)
        if not (folder / "out" / "metrics.json").is_file():
            write_result(folder)
        browser = driver.chromium.launch(executable_path=shutil.which(CHROMIUM))
        page = browser.new_page(viewport={"width": 1600, "height": 700})
        start = time.monotonic()
        command = [CTBASIS, "view", folder / "out", "--source", folder / "source"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            found = re.search(r"http\S+", server.stdout.readline())
            assert found is not None
            listening, used = time.monotonic(), sum(psutil.Process(server.pid).cpu_times()[:2])
            page.goto(found[0])
            page.wait_for_selector("[data-shown]")
            first = time.monotonic()
            early = scroll(page)
            loaded = time.monotonic()
            page.evaluate("viewer.turn('coronal')")
            page.wait_for_selector("[data-shown^=coronal]", timeout=120_000)
            coronal = time.monotonic()
            page.evaluate("viewer.turn('axial')")
            page.wait_for_selector("[data-shown^=axial]")
            late = scroll(page)
            server.terminate()
        browser.close()
    sys.stdout.write(
        f"start of the command to its address {listening - start:.2f} s ({used:.2f} s of processor)\n"
        f"from the address to the first picture {first - listening:.2f} s\n"
        f"scrolling at once {early:.1f} slices/s; coronal after {coronal - loaded:.2f} s; "
        f"scrolling again {late:.1f} slices/s\n"
        f"load of the machine {os.getloadavg()[0]:.1f}\n"
    )


if __name__ == "__main__":
    main()
