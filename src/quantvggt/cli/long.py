"""What `reconstruct` does where the frames are too many for one go."""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantvggt.cli.common import device_of, parse_bytes

if TYPE_CHECKING:
    from quantvggt.models import Model
    from quantvggt.reconstruction.cameras import KnownCameras
    from quantvggt.reconstruction.export import ExportOptions
    from quantvggt.reconstruction.lens import Known
    from quantvggt.reconstruction.long.estimate import Estimate
    from quantvggt.reconstruction.long.run import Chunking
    from quantvggt.reconstruction.points import PointCloud
    from quantvggt.reconstruction.scene import Scene
    from quantvggt.scenes.sequence import Frames


def add_long_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-memory",
        metavar="SIZE",
        help="what this may take, such as 8GB; frames that don't fit at once run in overlapping chunks (default: what "
        "the machine or its container has free)",
    )
    parser.add_argument("--chunk", type=int, metavar="N", help="at most N frames at once (default: as memory allows)")
    parser.add_argument("--overlap", type=int, metavar="N", help="frames that chunks share (default: a third)")
    parser.add_argument(
        "--no-loops", action="store_true", help="don't look for places that the frames come back to, and join the ends"
    )


def plan_of(
    args: argparse.Namespace, outline: "Model", frames: "Frames", tell: Callable[[str], None]
) -> "tuple[Chunking | None, Estimate | None]":
    """How the frames will be taken, None: all at once; and what that takes, which is said. Of a GPU --max-memory is all
    that this process gets from here on.

    Raises InputError if they can't be, before anything is loaded.
    """
    import torch

    from quantvggt.core.memory import cap_gpu
    from quantvggt.reconstruction.long.estimate import estimate, plan
    from quantvggt.reconstruction.long.rate import rate_of

    count, size = frames.count, frames.size
    most = None if args.max_memory is None else parse_bytes("--max-memory", args.max_memory)
    if most is not None and torch.device(device_of(args)).type == "cuda":
        cap_gpu(device_of(args), most)
    device, wanted = device_of(args), (most, args.chunk, args.overlap, not (args.no_loops or args.cameras))
    chunking = plan(outline, count, size, *wanted, device, frames.reading)
    at_once = count if chunking is None else chunking.size
    rate = rate_of(outline, at_once, size, torch.device(device))
    found = estimate(outline, count, size, chunking, rate.per_second, frames.reading)
    guess = "" if rate.timed else " (the time is a guess until such a model has run here)"
    expected = f", {found} expected{guess}" if found else ""
    if chunking is None:
        tell(f"{count} frames of {size[1]}x{size[0]} at once{expected}")
    else:
        tell(
            f"{count} frames of {size[1]}x{size[0]} in chunks of {chunking.size}, {chunking.overlap} of them shared"
            f"{expected}"
        )
    return chunking, found


def work_folder(output: Path) -> Path:
    """Where chunks are kept until the scene is written."""
    return output.with_name(f"{output.name}.work")


def run_chunks(
    args: argparse.Namespace,
    model: "Model",
    frames: "Frames",
    chunking: "Chunking",
    known: "Known | None",
    cameras: "KnownCameras | None",
    tell: Callable[[str], None],
) -> "Scene":
    """The scene; its arrays lie in `work_folder`, from where the same command goes on after an interruption."""
    from quantvggt.reconstruction.long.run import reconstruct_long

    work = work_folder(Path(args.output).expanduser())
    tell(f"finished chunks are kept in {work}: the same command goes on from there")
    return reconstruct_long(
        model,
        frames,
        work,
        chunking,
        args.points,
        args.model,
        known,
        cameras=cameras,
        refine=args.refine,
        one_lens=args.shared_camera or None,
    )


def points(scene: "Scene", options: "ExportOptions", chunking: "Chunking | None") -> "PointCloud":
    """The points that are written."""
    from quantvggt.reconstruction.export import points_of
    from quantvggt.reconstruction.long.cloud import cloud_of

    return points_of(scene, options) if chunking is None else cloud_of(scene, options, chunking.size)


def finish(output: Path) -> None:
    """The scene is written: what it was made from goes."""
    shutil.rmtree(work_folder(output), ignore_errors=True)


def record(chunking: "Chunking | None", found: "Estimate | None", scene: "Scene") -> dict[str, Any]:
    """For --json."""
    expected = None if found is None else {"bytes": found.bytes, "seconds": found.seconds}
    return {"estimate": expected, "chunking": None if chunking is None else scene.provenance["chunking"]}
