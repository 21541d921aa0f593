"""The README's pictures of the live viewer and the app, of what vggt-nano makes of a synthetic scene, by the Chromium
that is on PATH: python tools/picture_live.py, with the extras view, app and dev."""

import argparse
import io
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import uvicorn
from PIL import Image
from playwright.sync_api import Browser, sync_playwright

import quantvggt as qv
from picture_demo import BROWSERS
from quantvggt.core.ports import listen, port_of, web_address
from quantvggt.scenes.synthetic import make_clip, make_clips
from quantvggt.serve.app import create_app
from quantvggt.serve.app_studio import Studio
from quantvggt.serve.limits import Limits
from quantvggt.viewer.live.server import LiveViewer

SCENE, FRAMES = 12, 10  # the seed of a scene that took no part in training, as those of quantvggt demo
SIZE = (1440, 720)
APP_SIZE = (1280, 1130)
COLOURS = 200  # of a picture, so that it stays small
OPTIONS = ("--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
FULL, SMALL = "vggt-nano", "vggt-nano-w4a4"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default="docs/images", help="folder of the pictures")
    parser.add_argument("--small", type=Path, help="vggt-nano in W4A4, saved (default: it is quantized now)")
    args = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        parser.error(f"no browser on PATH; install one of {', '.join(BROWSERS)}")
    output = args.output.absolute()
    output.mkdir(parents=True, exist_ok=True)
    small = None if args.small is None else args.small.absolute()
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        os.chdir(folder)  # so that models are shown by their names
        if small is None:
            clips = make_clips(range(4), frames=4)
            qv.save(qv.quantize(qv.load(FULL), "w4a4", calibration=clips, progress=False), SMALL)
        else:
            Path(SMALL).symlink_to(small)
        photos = write_photos(Path("photos"))
        started = playwright.chromium.launch(executable_path=browser, args=list(OPTIONS))
        pictures = {"viewer": picture_viewer(started, photos), "app": picture_app(started, photos)}
        started.close()
    for name, picture in pictures.items():
        file = output / f"{name}.png"
        picture.quantize(COLOURS).save(file, optimize=True)
        print(f"{file}: {file.stat().st_size / 1000:.0f} kB")


def write_photos(folder: Path) -> list[Path]:
    """The frames of the scene, as files."""
    folder.mkdir()
    for index, frame in enumerate(make_clip(SCENE, FRAMES).images):
        Image.fromarray((frame.permute(1, 2, 0).numpy() * 255).round().astype("uint8")).save(folder / f"{index}.png")
    return sorted(folder.iterdir())


def picture_viewer(browser: Browser, photos: list[Path]) -> Image.Image:
    """Full precision, and beside it W4A4 coloured by its difference."""
    scenes = [qv.reconstruct(qv.load(name), list(photos)) for name in (FULL, SMALL)]
    viewer = LiveViewer(scenes, [FULL, SMALL])
    page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
    try:
        page.goto(viewer.address)
        panel = page.frame_locator("iframe").first
        panel.get_by_label("Difference").check()
        panel.get_by_text("median").wait_for()
        for pane in range(2):  # viser's word about drawing without a GPU
            page.frame_locator("iframe").nth(pane).locator(".mantine-Notification-closeButton").click()
        page.wait_for_timeout(3000)
        return shot(page)
    finally:
        page.close()
        viewer.stop()


def picture_app(browser: Browser, photos: list[Path]) -> Image.Image:
    """A scene by W4A4, full precision beside it."""
    with Studio(Limits(), reference=FULL) as studio, listen("127.0.0.1", 7860) as listener:
        server = uvicorn.Server(uvicorn.Config(create_app(studio, [SMALL, FULL]), log_level="error"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.1)
        page = browser.new_page(viewport={"width": APP_SIZE[0], "height": APP_SIZE[1]})
        page.goto(web_address("127.0.0.1", port_of(listener)))
        page.locator("input[type=file]").set_input_files(list(photos))
        page.get_by_label("Compare with full precision").check()
        page.get_by_role("button", name="Reconstruct").click()
        page.locator(".scenes iframe").nth(1).wait_for(timeout=300_000)
        page.wait_for_timeout(15_000)  # for both pages' plots
        picture = shot(page)
        page.close()
        server.should_exit = True
        thread.join()
        return picture


def shot(page: Any) -> Image.Image:
    """What a page shows."""
    with Image.open(io.BytesIO(page.screenshot())) as image:
        return image.convert("RGB")


if __name__ == "__main__":
    main()
