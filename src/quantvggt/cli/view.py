"""quantvggt view"""

import argparse
import contextlib
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantvggt.cli.common import say
from quantvggt.core.errors import InputError

if TYPE_CHECKING:
    from quantvggt.reconstruction.scene import Scene
    from quantvggt.viewer.live.server import LiveViewer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "scene",
        nargs="+",
        help="folder that `quantvggt reconstruct` wrote (with scene.npz); two: side by side, such as full precision "
        "and quantized, of the same photos",
    )
    parser.add_argument(
        "--output", "-o", help="write a page without a server there (default: scene.html in that folder)"
    )
    parser.add_argument("--page", action="store_true", help="write the page instead of starting the live viewer")
    parser.add_argument(
        "--max-points",
        type=int,
        help="points shown (default 60000 on a page, 1000000 of each scene in the live viewer)",
    )
    parser.add_argument(
        "--no-open",
        action="store_true",
        help="open no browser; without --live, nobody would look at a live viewer, so the page is written",
    )
    parser.add_argument(
        "--live",
        action="store_true",
        help="the live viewer (pip install 'quantvggt[view]'), also with --no-open; without that extra, and without "
        "this, a page is written",
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default %(default)s: this machine only)"
    )
    parser.add_argument("--port", type=int, default=8080, help="the next free port from here on (default %(default)s)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from quantvggt.reconstruction.scene import Scene
    from quantvggt.viewer.live.server import require_viser, viser_installed

    page = bool(args.page or args.output or args.no_open)
    if args.live and (args.page or args.output):
        raise InputError("--live starts a viewer and --page writes a file; choose one")
    if len(args.scene) > 2:
        raise InputError(f"{len(args.scene)} scenes to view; give one, or two to see them side by side")
    if args.live or (len(args.scene) == 2 and not page):
        require_viser()
        return _live(args, [Scene.load(scene) for scene in args.scene])
    if len(args.scene) == 2:
        raise InputError(
            "a page shows one scene; to see two, leave --page and --output out, and add --live to --no-open"
        )
    if not page and not viser_installed():
        say("the live viewer needs viser (pip install 'quantvggt[view]'); writing a page instead")
        page = True
    scene = Scene.load(args.scene[0])
    return _page(args, scene) if page else _live(args, [scene])


def _page(args: argparse.Namespace, scene: "Scene") -> dict[str, Any]:
    from quantvggt.viewer.figure import MAX_POINTS
    from quantvggt.viewer.page import open_page, write_page

    source = Path(args.scene[0])
    page = Path(args.output) if args.output else (source if source.is_dir() else source.parent) / "scene.html"
    points = MAX_POINTS if args.max_points is None else args.max_points
    write_page(scene, page, f"{len(scene.names)} frames", max_points=points)
    say(f"wrote {page}")
    if not args.no_open:
        open_page(page)
    return {"page": str(page), "frames": len(scene.names)}


def _live(args: argparse.Namespace, scenes: "list[Scene]") -> dict[str, Any]:
    """Until Ctrl-C."""
    import webbrowser

    from quantvggt.viewer.live.cloud import MAX_POINTS
    from quantvggt.viewer.live.server import LiveViewer

    points = MAX_POINTS if args.max_points is None else args.max_points
    titles = [Path(scene).absolute().name for scene in args.scene]
    with contextlib.redirect_stdout(sys.stderr):  # viser may have a word to say
        viewer = LiveViewer(scenes, titles, args.host, args.port, points)
        try:
            with contextlib.suppress(KeyboardInterrupt):
                _tell(viewer)
                if not args.no_open:
                    webbrowser.open(viewer.address)
                threading.Event().wait()
        finally:
            viewer.stop()
    scale = viewer.ruler.scale
    if scale is not None:
        say(f"scale: lengths times {scale:.6g} are in your unit")
    return {
        "page": None,
        "frames": len(scenes[0].names),
        "address": viewer.address,
        "points": viewer.points,
        "difference": None if viewer.difference is None else viewer.difference.median,
        "scale": scale,
    }


def _tell(viewer: "LiveViewer") -> None:
    say(f"{' and '.join(f'{count:,}' for count in viewer.points)} points at {viewer.address} (Ctrl-C ends it)")
    if viewer.difference is not None:
        say(f"median distance between the scenes: {viewer.difference.median:.3g} of the mean viewing distance")
    elif viewer.incomparable:
        say(viewer.incomparable)
