"""Pictures of the site for docs/project: `make site-pictures` builds the site and runs this program."""

from __future__ import annotations

import shutil
import sys
from io import BytesIO
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from tests.browser import CHROMIUM

PICTURES = {
    "home.png": ("index.html", 1280, 900),
    "guide.png": ("how-to/no-readwritemany.html", 1280, 900),
    "api.png": ("reference/api.html", 1280, 900),
    "phone.png": ("how-to/own-bucket.html", 390, 844),
}
"""Name of each picture, its page, and the size of the window."""

MAX_BYTES = 150_000


def main(site: Path, out: Path) -> None:
    """Write each picture as a PNG with a palette."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which(CHROMIUM))
        for name, (page, width, height) in PICTURES.items():
            opened = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
            opened.goto((site / page).resolve().as_uri())
            with Image.open(BytesIO(opened.screenshot())) as image:
                image.convert("RGB").quantize(64, dither=Image.Dither.NONE).save(out / name, optimize=True)
            size = (out / name).stat().st_size
            if size > MAX_BYTES:
                raise SystemExit(f"{name} has {size} bytes, more than {MAX_BYTES}; show less of the page")
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
