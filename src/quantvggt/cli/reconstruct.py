"""quantvggt reconstruct"""

import argparse
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from quantvggt.cli.common import (
    MODEL_HELP,
    add_attention_bits_option,
    add_attention_option,
    add_device_options,
    add_place_options,
    device_of,
    dtype_of,
    load_model,
    require_free,
    say,
)
from quantvggt.cli.long import add_long_options, finish, plan_of, points, record, run_chunks
from quantvggt.scenes.preprocess import MODES

if TYPE_CHECKING:  # not loaded for --help
    from quantvggt.models import Model
    from quantvggt.reconstruction.cameras import KnownCameras
    from quantvggt.reconstruction.export import ExportOptions
    from quantvggt.reconstruction.lens import Known

FORMATS = ("cameras", "colmap", "ply", "glb", "depth", "npz", "nerfstudio", "tum")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument(
        "source", nargs="+", help="folder of images (if it has none: those in folders below), glob, images, or a video"
    )
    parser.add_argument("--output", "-o", default="scene", help="folder for the scene (default %(default)s)")
    parser.add_argument(
        "--formats",
        default=",".join(FORMATS),
        help="comma-separated: cameras (JSON), colmap (pictures and model), ply (coloured points), glb (points and "
        "cameras), depth (PNG and NPZ), npz (everything; `quantvggt view` reads it), nerfstudio (pictures and "
        "transforms.json), tum (trajectory) (default: all)",
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
        choices=MODES,
        help="crop: full width, pictures taller than wide lose top and bottom, with a warning; pad: nothing is lost, "
        "white is added; longest: nothing is lost or added, unless pictures differ in shape: then all are cut to the "
        "smallest; area: so many pixels, nothing is lost or added, pictures of another shape than the first are "
        "stretched to it (default: as the model's family has it, crop for VGGT)",
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
    _add_output_options(parser)
    add_long_options(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace a scene that is already there")
    add_attention_option(parser)
    add_attention_bits_option(parser)
    add_device_options(parser, dtype="auto")
    many = parser.add_argument_group("many scenes", "run again to go on with those that aren't finished")
    many.add_argument(
        "--scenes",
        action="store_true",
        help="each folder of images and each video in the folder IMAGES is a scene, in a folder of its own in --output",
    )
    add_place_options(many)


def _add_output_options(parser: argparse.ArgumentParser) -> None:
    known = parser.add_mutually_exclusive_group()
    known.add_argument(
        "--intrinsics",
        metavar="FX,FY,CX,CY|FILE",
        help="known cameras, in pixels of the upright pictures: four numbers, a COLMAP cameras.txt, or a .json file",
    )
    known.add_argument(
        "--cameras",
        metavar="FILE",
        help="known cameras, where they stand too, for a model that makes use of them: cameras.json, nerfstudio's "
        "transforms.json, or a folder with COLMAP's cameras.txt and images.txt",
    )
    parser.add_argument(
        "--refine",
        action="store_true",
        help="bundle adjustment of the cameras (pip install 'quantvggt[refine]')",
    )
    parser.add_argument(
        "--size",
        default="original",
        choices=("original", "network"),
        help="pictures and cameras of colmap and nerfstudio: as large as yours, or as the model saw them "
        "(default %(default)s)",
    )
    parser.add_argument(
        "--colmap", default="both", choices=("both", "text", "binary"), help="COLMAP model (default %(default)s)"
    )
    parser.add_argument(
        "--shared-camera", action="store_true", help="one camera for all pictures: the median of theirs"
    )
    parser.add_argument(
        "--voxel",
        type=float,
        metavar="EDGE",
        help="merge points within so much of the scene's unit (default: a pixel's width there; 0: merge nothing)",
    )
    parser.add_argument(
        "--keep-floaters",
        action="store_true",
        help="keep points on depth edges, and those that other frames look through",
    )
    parser.add_argument("--mesh", action="store_true", help="a mesh per frame in the GLB instead of points")
    parser.add_argument(
        "--depth-size",
        default="network",
        choices=("network", "original"),
        help="of the depth PNGs (default %(default)s)",
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    if args.scenes:
        from quantvggt.cli.scenes import run_scenes

        return run_scenes(args)
    return reconstruct(args, load_model, say)


class Request(NamedTuple):
    """What the options ask for, looked through before long work starts."""

    formats: list[str]
    options: "ExportOptions"
    known: "Known | None"
    cameras: "KnownCameras | None"
    model: "Model"


def request_of(args: argparse.Namespace) -> Request:
    """Raises InputError if an option is wrong, or what it needs isn't there."""
    from quantvggt.checkpoint.load import outline
    from quantvggt.reconstruction.cameras import read_cameras
    from quantvggt.reconstruction.export import ExportOptions, check_formats
    from quantvggt.reconstruction.lens import read_intrinsics
    from quantvggt.reconstruction.refine import require_pycolmap

    formats = check_formats(name.strip() for name in args.formats.split(",") if name.strip())
    options = ExportOptions(
        min_confidence=args.min_confidence,
        max_points=args.max_points,
        clean=not args.keep_floaters,
        voxel=args.voxel,
        size=args.size,
        shared_camera=args.shared_camera,
        colmap=args.colmap,
        depth_size=args.depth_size,
        mesh=args.mesh,
    )
    known = read_intrinsics(args.intrinsics) if args.intrinsics else None
    cameras = read_cameras(args.cameras) if args.cameras else None
    if args.refine:
        require_pycolmap()
    asked = outline(args.model, dtype_of(args), device_of(args))
    asked.attention, asked.attention_bits = args.attention, args.attention_bits
    if cameras is not None:
        asked.require_takes(cameras.gives)
    return Request(formats, options, known, cameras, asked)


def reconstruct(
    args: argparse.Namespace, load: Callable[[argparse.Namespace], "Model"], tell: Callable[[str], None]
) -> dict[str, Any]:
    """One scene; load: gives the model that `args` name; tell: is told what people want to know."""
    from quantvggt import api
    from quantvggt.reconstruction.bundle import summary
    from quantvggt.reconstruction.export import export
    from quantvggt.reconstruction.long.rate import remember_rate
    from quantvggt.reconstruction.refine import refine
    from quantvggt.scenes.open import open_frames
    from quantvggt.viewer.page import write_page

    formats, options, known, cameras, asked = request_of(args)
    output = require_free(args.output, args.overwrite)
    source = args.source[0] if len(args.source) == 1 else args.source
    # Pictures before the model: what is wrong with them is said at once, not after a minute of loading.
    mode = args.mode or asked.preprocessing
    frames = open_frames(source, args.frames, args.rate, mode, asked.image_size, args.every, args.skip_unreadable)
    chunking, expected = plan_of(args, asked, frames, tell)
    clip = frames.load() if chunking is None else None
    if cameras is not None:
        cameras.require(frames.names)
    for given in (known, cameras):
        if given is not None and clip is not None:
            given.of(clip)
    model = load(args)
    height, width = frames.size
    tell(f"running {args.model}")
    start = time.perf_counter()
    if clip is None:
        assert chunking is not None
        scene = run_chunks(args, model, frames, chunking, known, cameras, tell)
        left_out = scene.provenance["chunking"]["left_out"]
    else:
        scene = api.reconstruct(model, clip, args.points, model_name=args.model, intrinsics=known, cameras=cameras)
        left_out = [name for name in clip.names if name not in scene.names]
    seconds = time.perf_counter() - start
    if clip is not None:
        remember_rate(model, len(clip.names), frames.size, seconds)
    refined = scene.provenance.get("refined")
    if args.refine and chunking is None:
        refinement = refine(scene)
        scene, refined = refinement.scene, refinement.record()
    if refined is not None:
        tell(summary(refined))
    cloud = points(scene, options, chunking)
    written = export(scene, output, formats, options, args.overwrite, cloud)
    page = output / "scene.html"
    write_page(scene, page, f"{len(scene.names)} frames by {args.model}", min_confidence=args.min_confidence)
    finish(output)
    tell(f"{len(cloud):,} points in {seconds:.1f} s. Open {page} in a browser. Written:")
    for name, path in written.items():
        tell(f"  {name:10} {path}")
    return {
        "output": str(output),
        "frames": len(scene.names),
        "left_out": left_out,
        "borrowed_lens": scene.provenance.get("borrowed_lens", []),
        "height": height,
        "width": width,
        "points": len(cloud),
        "seconds": seconds,
        "refined": refined,
        **record(chunking, expected, scene),
        "files": {**{name: str(path) for name, path in written.items()}, "page": str(page)},
    }
