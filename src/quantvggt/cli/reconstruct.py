"""quantvggt reconstruct"""

import argparse
import time
from typing import Any

from quantvggt.cli.common import MODEL_HELP, add_device_options, device_of, dtype_of, require_free, say

FORMATS = ("cameras", "colmap", "ply", "glb", "depth", "npz")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument(
        "source", nargs="+", help="folder of images (if it has none: those in folders below), glob, images, or a video"
    )
    parser.add_argument("--output", "-o", default="scene", help="folder for the scene (default %(default)s)")
    parser.add_argument(
        "--formats",
        default=",".join(FORMATS),
        help="comma-separated: cameras (JSON), colmap (text model), ply (coloured points), glb (points and cameras), "
        "depth (PNG and NPZ), npz (everything; `quantvggt view` reads it) (default: all)",
    )
    parser.add_argument(
        "--frames",
        type=int,
        metavar="N",
        help="use N images, evenly spaced; N frames of a video, spread over its time, each the sharpest near its place "
        "(default: all images, 16 frames of a video)",
    )
    parser.add_argument(
        "--rate", type=float, metavar="FPS", help="FPS frames per second of a video, as they come, instead of --frames"
    )
    parser.add_argument(
        "--every", type=int, metavar="N", help="each N-th image or frame, as they come, instead of --frames"
    )
    parser.add_argument(
        "--skip-unreadable",
        action="store_true",
        help="go on without images that can't be read, with one warning (default: the first is an error; damaged "
        "frames of a video are always left out with a warning)",
    )
    parser.add_argument(
        "--mode",
        default="crop",
        choices=("crop", "pad"),
        help="crop: full width, pictures taller than wide lose top and bottom, with a warning; pad: nothing is lost, "
        "white is added (default crop)",
    )
    parser.add_argument(
        "--points",
        default="depth",
        choices=("depth", "pointmap"),
        help="world points from the depth and camera heads (more accurate), or from the point head (default depth)",
    )
    parser.add_argument(
        "--min-confidence",
        type=float,
        default=50.0,
        metavar="PERCENT",
        help="drop this share of points, the least sure ones (default %(default)s)",
    )
    parser.add_argument("--max-points", type=int, help="keep at most so many points, drawn at random (default: all)")
    parser.add_argument("--overwrite", action="store_true", help="replace a scene that is already there")
    add_device_options(parser, dtype="auto")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from quantvggt import api
    from quantvggt.checkpoint.load import image_size_of
    from quantvggt.reconstruction.export import check_formats
    from quantvggt.reconstruction.points import select_points
    from quantvggt.scenes.open import load_clip
    from quantvggt.viewer.page import write_page

    formats = check_formats(name.strip() for name in args.formats.split(",") if name.strip())
    output = require_free(args.output, args.overwrite)
    source = args.source[0] if len(args.source) == 1 else args.source
    # Pictures before the model: what is wrong with them is said at once, not after a minute of loading.
    size = image_size_of(args.model)
    clip = load_clip(source, args.frames, args.rate, args.mode, size, args.every, args.skip_unreadable)
    model = api.load(args.model, dtype=dtype_of(args), device=device_of(args))
    height, width = clip.images.shape[-2:]
    say(f"{len(clip.names)} frames of {width}x{height}; running {args.model}")
    start = time.perf_counter()
    scene = api.reconstruct(model, clip, points=args.points, model_name=args.model)
    seconds = time.perf_counter() - start
    written = scene.export(
        output,
        formats=formats,
        min_confidence=args.min_confidence,
        max_points=args.max_points,
        overwrite=args.overwrite,
    )
    page = output / "scene.html"
    write_page(scene, page, f"{len(clip.names)} frames by {args.model}")
    points = len(select_points(scene, args.min_confidence, args.max_points).xyz)
    say(f"{points:,} points in {seconds:.1f} s. Open {page} in a browser. Written:")
    for name, path in written.items():
        say(f"  {name:8} {path}")
    return {
        "output": str(output),
        "frames": len(clip.names),
        "height": height,
        "width": width,
        "points": points,
        "seconds": seconds,
        "files": {**{name: str(path) for name, path in written.items()}, "page": str(page)},
    }
