"""The picture of docs/how-to/view.md: the viewer with a chest phantom, denoised in patch mode, in a browser.

`make view-picture` runs this program.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from ctbasis.simulate.low_dose_series import simulate_low_dose
from ctbasis.simulate.phantom import write_chest
from ctbasis.viewer.result import open_result
from ctbasis.viewer.serve import Viewing
from tests.browser import CHROMIUM

CTBASIS = Path(sys.executable).with_name("ctbasis")
SLICES, EDGE = 24, 192
SCREEN = {"width": 1400, "height": 520}


def main(picture: Path) -> None:
    """Denoise a phantom, and write the picture of its result."""
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as driver:
        clean, noisy, out = (Path(scratch) / name for name in ("clean", "noisy", "out"))
        write_chest(clean, slices=SLICES, rows=EDGE, columns=EDGE, seed=0)
        simulate_low_dose(clean, noisy, photons=2e4, seed=0)
        subprocess.run([CTBASIS, "run", noisy, "--out", out, "--mode", "patch", "--seed", "0"], check=True)
        browser = driver.chromium.launch(executable_path=shutil.which(CHROMIUM))
        page = browser.new_page(viewport=SCREEN)  # type: ignore[arg-type]
        with Viewing(open_result(out, noisy)).running() as (_, address):
            page.goto(address)
            page.wait_for_selector("[data-shown]")
            page.get_by_role("button", name="lung").click()
            page.locator(".pane-after canvas").hover(position={"x": 150, "y": 180})
            shot = page.screenshot()
        browser.close()
    with Image.open(BytesIO(shot)) as image:
        image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
