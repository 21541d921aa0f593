"""How long the live viewer takes to show a million points, and how fluently they turn, in the Chromium that is on PATH.

    python benchmarks/view_time.py [--frames 5] [--size 392x518] [--seconds 5] [--gpu]

The scene is that of export_time.py. Without --gpu Chromium draws on the CPU (SwiftShader), which says little about a
machine with a graphics card: the same is measured with ten thousand points, as what it takes without the points. A
picture is what the browser has drawn when asked; frames per second are those that it draws while the mouse turns the
scene.
The last line is JSON.
"""

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from playwright.sync_api import sync_playwright

from export_time import wall
from quantvggt.core.machine import environment
from quantvggt.reconstruction.scene import Scene
from quantvggt.viewer.live.controls import first_look
from quantvggt.viewer.live.server import LiveViewer

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SOFTWARE = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
COUNT = """() => { window.drawn = 0; const each = () => { window.drawn++; requestAnimationFrame(each) }; each() }"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--size", default="392x518", help="height x width of a frame")
    parser.add_argument("--seconds", type=float, default=5, help="that the scene is turned")
    parser.add_argument("--gpu", action="store_true", help="let Chromium draw as it likes")
    args = parser.parse_args()
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        parser.error(f"no browser on PATH; install one of {', '.join(BROWSERS)}")
    height, width = map(int, args.size.split("x"))
    scene = wall(args.frames, height, width)
    rows = []
    with sync_playwright() as playwright:
        options = ["--no-sandbox", *(() if args.gpu else SOFTWARE)]
        started = playwright.chromium.launch(executable_path=browser, args=options)
        for points in (scene.points_conf.size, 10_000):
            rows.append(measure(started, scene, points, args.seconds))
            print("  ".join(f"{name} {value:,}" for name, value in rows[-1].items()), file=sys.stderr)
        started.close()
    print(json.dumps({"rows": rows, "gpu": args.gpu, "load": os.getloadavg()[0], **environment()}))


def measure(browser: Any, scene: Scene, points: int, seconds: float) -> dict[str, float]:
    """One viewer, one window."""
    start = time.perf_counter()
    viewer = LiveViewer([scene], ["wall"], max_points=points)
    viewer.look(replace(first_look(len(scene.names)), percentile=0))
    row: dict[str, float] = {"points": points, "prepared_s": time.perf_counter() - start}
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    start = time.perf_counter()
    page.goto(viewer.address)
    row["shown_s"] = until(viewer, lambda drawn: drawn > 0.05, start)
    start = time.perf_counter()
    viewer.look(replace(first_look(len(scene.names)), percentile=100))
    row["filter_sent_s"] = time.perf_counter() - start
    row["filter_shown_s"] = until(viewer, lambda drawn: drawn < 0.05, start)
    viewer.look(replace(first_look(len(scene.names)), percentile=0))
    until(viewer, lambda drawn: drawn > 0.05, start)
    page.evaluate(COUNT)
    page.mouse.move(300, 400)
    page.mouse.down()
    start, first, step = time.perf_counter(), page.evaluate("window.drawn"), 0
    while time.perf_counter() - start < seconds:
        step += 1
        page.mouse.move(300 + 2 * (step % 100), 400)
    row["frames_per_s"] = (page.evaluate("window.drawn") - first) / (time.perf_counter() - start)
    page.close()
    viewer.stop()
    return {name: round(value, 3) for name, value in row.items()}


def until(viewer: LiveViewer, reached: Callable[[float], bool], start: float) -> float:
    """Seconds since `start` when a picture has such a share of it drawn on."""
    server = viewer.panes[0].server
    while True:
        for client in server.get_clients().values():
            picture = client.get_render(200, 320, timeout=120)
            if reached(float((picture[..., :3] < 250).any(-1).mean())):
                return time.perf_counter() - start
        time.sleep(0.05)


if __name__ == "__main__":
    main()
