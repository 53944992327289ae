"""The picture of docs/how-to/pacs.md: Orthanc's page of a study with the original and the denoised series.

`make orthanc-picture` runs this program. A chest phantom is sent to Orthanc and to a node, which denoises it and sends
the result to Orthanc.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

import ctbasis
from ctbasis.node.listening import Listening
from ctbasis.node.service import Node, NodeSettings
from ctbasis.simulate.low_dose_series import simulate_low_dose
from ctbasis.simulate.phantom import write_chest
from tests.browser import CHROMIUM
from tests.node import orthanc, rate

SLICES, EDGE = 16, 64
SCREEN = {"width": 1100, "height": 560}
MOST_SECONDS = 900.0


def main(picture: Path) -> None:
    """Let a node denoise a phantom, and write the picture of Orthanc's page."""
    with tempfile.TemporaryDirectory(prefix="ctbasis-orthanc-") as name, sync_playwright() as driver:
        clean, noisy, basis = (Path(name) / one for one in ("clean", "noisy", "basis"))
        (Path(name) / "orthanc").mkdir()
        write_chest(clean, slices=SLICES, rows=EDGE, columns=EDGE, seed=0)
        simulate_low_dose(clean, noisy, photons=2e4, seed=0)
        ctbasis.denoise(ctbasis.read(noisy), keep_basis=basis, stride=5, wiener=False)
        with orthanc.running(Path(name) / "orthanc") as archive:
            archive.add(noisy)
            settings = NodeSettings(
                state=Path(name) / "node",
                listening=Listening("CTBASIS", "127.0.0.1", 0),
                bases=(str(basis),),
                unfit="refuse",
                destinations=(archive.peer,),
                quiet=2.0,
            )
            with Node(settings).running() as node:
                rate.seconds(noisy, node.server.port, "CTBASIS")
                deadline = time.monotonic() + MOST_SECONDS
                while archive.get("/statistics")["CountInstances"] < 2 * SLICES:
                    if time.monotonic() > deadline:
                        raise RuntimeError(f"the series did not come back; jobs: {node.queue.jobs()}")
                    time.sleep(0.5)
            (study,) = archive.get("/studies")
            browser = driver.chromium.launch(executable_path=shutil.which(CHROMIUM))
            page = browser.new_page(viewport=SCREEN)  # type: ignore[arg-type]
            page.goto(f"{archive.endpoint}/app/explorer.html#study?uuid={study}")
            page.wait_for_selector("#list-series li >> nth=2")
            page.wait_for_load_state("networkidle")
            shot = page.screenshot()
            browser.close()
    with Image.open(BytesIO(shot)) as image:
        image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(picture, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
