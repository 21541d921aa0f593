"""quantvggt view"""

import argparse
from pathlib import Path
from typing import Any

from quantvggt.cli.common import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("scene", help="folder that `quantvggt reconstruct` wrote (with scene.npz)")
    parser.add_argument("--output", "-o", help="the page to write (default: scene.html in that folder)")
    parser.add_argument("--max-points", type=int, default=60_000, help="points shown (default %(default)s)")
    parser.add_argument("--no-open", action="store_true", help="write the page, but don't open a browser")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from quantvggt.reconstruction.scene import Scene
    from quantvggt.viewer.page import open_page, write_page

    scene = Scene.load(args.scene)
    folder = Path(args.scene) if Path(args.scene).is_dir() else Path(args.scene).parent
    page = Path(args.output) if args.output else folder / "scene.html"
    write_page(scene, page, f"{len(scene.names)} frames", max_points=args.max_points)
    say(f"wrote {page}")
    if not args.no_open:
        open_page(page)
    return {"page": str(page), "frames": len(scene.names)}
