"""The README's pictures, made from a demo's folder by whatever Chromium is on PATH.

quantvggt demo --output runs/demo && python tools/picture_demo.py runs/demo
"""

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
PAGES = ("scene", "report")
SIZE = (1280, 1170)
"""Of the window: the report's down to the end of its table."""
OPTIONS = (
    *("--headless", "--hide-scrollbars", "--no-first-run", "--disable-background-networking"),
    "--no-sandbox",  # root has none, and the pages are our own
    *("--use-angle=swiftshader", "--enable-unsafe-swiftshader"),  # WebGL without a GPU
    "--virtual-time-budget=20000",  # milliseconds in which the plots are drawn
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("demo", nargs="?", type=Path, default="runs/demo", help="what quantvggt demo has written")
    parser.add_argument("--output", type=Path, default="docs/images", help="folder of the pictures")
    args = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        parser.error(f"no browser on PATH; install one of {', '.join(BROWSERS)}")
    if missing := [name for name in PAGES if not (args.demo / f"{name}.html").is_file()]:
        parser.error(f"{args.demo} has no {missing[0]}.html; make it with quantvggt demo --output {args.demo}")
    args.output.mkdir(parents=True, exist_ok=True)
    for name in PAGES:
        picture = args.output / f"{name}.webp"
        screenshot(browser, args.demo / f"{name}.html").save(picture, quality=80, method=6)
        print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


def screenshot(browser: str, page: Path) -> Image.Image:
    """What the browser shows of a page in a window of SIZE."""
    with tempfile.TemporaryDirectory() as folder:
        image, profile = Path(folder) / "page.png", Path(folder) / "profile"
        where = (f"--window-size={SIZE[0]},{SIZE[1]}", f"--user-data-dir={profile}", f"--screenshot={image}")
        subprocess.run([browser, *OPTIONS, *where, page.resolve().as_uri()], check=True, capture_output=True)
        with Image.open(image) as shown:
            return shown.convert("RGB")


if __name__ == "__main__":
    main()
