"""A long path in chunks: how far the cameras drift, and what it takes in memory.

    python benchmarks/long_path.py --output runs/long_path.json

A camera goes around a synthetic scene of known truth. Trajectory error (ATE) is the root mean square distance of the
cameras' centres from the true ones after the best similarity, in metres of the rendered world; the camera stands 4 to 5
m from the middle. Per path and model:

    chunk     ATE within each chunk, its root mean square over the chunks: what the model does with frames that lie
              close together
    at once   ATE of as many frames as a chunk has, spread over all of the path, in one go: what the model does with
              the whole path at a chunk's size
    chain     ATE of all frames, chunks joined along the chain alone
    loops     ATE of all frames, with mixed chunks
    refined   the same after bundle adjustment with one lens, as `--refine` does with a video

Memory: processes of their own that reconstruct paths of 100 and of 300 frames, from a video, and the resident memory
without mapped files (RssAnon of proc(5)) at its highest above that of the loaded model.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open

import quantvggt as qv
from quantvggt.core.machine import environment
from quantvggt.core.similarity import umeyama
from quantvggt.jobs.store import Store
from quantvggt.models import Model
from quantvggt.reconstruction import predict
from quantvggt.reconstruction.geometry import camera_centres
from quantvggt.reconstruction.long.assemble import owners
from quantvggt.reconstruction.long.chunk import Chunk, read_chunk
from quantvggt.reconstruction.long.graph import solve
from quantvggt.reconstruction.long.run import Chunking, reconstruct_long
from quantvggt.reconstruction.long.shared import edge_between
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.open import open_frames
from quantvggt.scenes.sequence import ClipFrames
from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_path

PATHS = {"closed": 1.0, "open": 0.8}
"""How much of a turn: after one the camera is where it began."""
SEED = HELD_OUT_SEED + 500
SAMPLE_SECONDS = 0.02


def ate(found: NDArray[Any], truth: NDArray[Any]) -> float:
    moved = umeyama(found, truth).apply(found)
    return float(np.sqrt(((moved - truth) ** 2).sum(1).mean()))


def accuracy(model: Model, clip: Clip, chunking: Chunking) -> dict[str, float]:
    assert clip.truth is not None
    truth = camera_centres(clip.truth.extrinsics.numpy())

    def alone(rows: NDArray[np.intp]) -> float:
        some = Clip(clip.images[torch.from_numpy(rows)], [clip.names[row] for row in rows])
        return ate(camera_centres(predict.reconstruct(model, some).extrinsics), truth[rows])

    spread = np.linspace(0, len(clip.names) - 1, chunking.size).round().astype(np.intp)
    with tempfile.TemporaryDirectory() as work:
        scene = reconstruct_long(model, ClipFrames(clip), work, chunking, progress=False)
        loops = ate(camera_centres(scene.extrinsics), truth)
        refined = reconstruct_long(model, ClipFrames(clip), work, chunking, progress=False, refine=True, one_lens=True)
        if not refined.provenance["refined"]["applied"]:
            print(refined.provenance["refined"]["reason"])
        chunks = kept_chunks(Path(work))
        inside = [ate(camera_centres(chunk.extrinsics), truth[chunk.frames]) for chunk in chunks]
        return {
            "chunk": float(np.sqrt(np.mean(np.square(inside)))),
            "at once": alone(spread),
            "chain": ate(chained(chunks), truth),
            "loops": loops,
            "refined": ate(camera_centres(refined.extrinsics), truth),
        }


def kept_chunks(work: Path) -> list[Chunk]:
    """What a finished run has left in its folder."""
    files = sorted(work.glob("chunk_*.safetensors"))
    with safe_open(files[0], "pt") as file:
        store = Store(work, file.metadata()["task"])
    return [chunk for file in files if (chunk := read_chunk(store, file.name)) is not None]


def chained(chunks: list[Chunk]) -> NDArray[np.float64]:
    """The centres of all cameras, chunks joined along the chain alone."""
    edges = [edge_between(a, b, (k, k + 1)) for k, (a, b) in enumerate(pairwise(chunks))]
    worlds = solve(edges, len(chunks))
    owned = owners([chunk.frames for chunk in chunks])
    centres = [
        world.apply(camera_centres(chunk.only(owned.get(number, [])).extrinsics))
        for number, (chunk, world) in enumerate(zip(chunks, worlds, strict=True))
    ]
    return np.concatenate(centres)


def write_video(clip: Clip, path: Path, size: tuple[int, int]) -> None:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(5, 2))
        stream.width, stream.height, stream.pix_fmt = size[0], size[1], "yuv420p"
        for image in clip.images:
            frame = av.VideoFrame.from_ndarray((image.permute(1, 2, 0) * 255).byte().numpy(), format="rgb24")
            container.mux(stream.encode(frame.reformat(*size)))
        container.mux(stream.encode(None))


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon")).split()[1])


def peak(model_name: str, video: Path, chunking: Chunking, frames: int) -> int:
    """Bytes above the loaded model's, decoding included."""
    model = qv.load(model_name)
    highest, done = [0], threading.Event()
    before = anonymous_bytes()

    def watch() -> None:
        while not done.is_set():
            highest[0] = max(highest[0], anonymous_bytes())
            time.sleep(SAMPLE_SECONDS)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with tempfile.TemporaryDirectory() as work:
        reconstruct_long(
            model, open_frames(video, frames=frames, size=model.image_size), work, chunking, progress=False
        )
    done.set()
    watcher.join()
    return highest[0] - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="vggt-nano,vggt-nano-long")
    parser.add_argument("--frames", type=int, default=300)
    parser.add_argument("--chunk", type=int, default=24)
    parser.add_argument("--overlap", type=int, default=8)
    parser.add_argument("--no-memory", action="store_true", help="accuracy alone")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--peak", nargs=2, metavar=("VIDEO", "FRAMES"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    chunking, models = Chunking(args.chunk, args.overlap), args.models.split(",")
    if args.peak:
        print(peak(models[0], Path(args.peak[0]), chunking, int(args.peak[1])))
        return
    rows = []
    print(f"{'model':16} {'path':7} {'chunk':>7} {'at once':>7} {'chain':>7} {'loops':>7} {'refined':>7}")
    for name in models:
        model = qv.load(name)
        for path, turns in PATHS.items():
            row = accuracy(model, make_path(SEED, args.frames, turns), chunking)
            print(f"{name:16} {path:7} " + " ".join(f"{row[key]:7.3f}" for key in row), flush=True)
            rows.append({"model": name, "path": path, **row})
    memory = {}
    if not args.no_memory:
        with tempfile.TemporaryDirectory() as folder:
            video = Path(folder) / "path.mp4"
            write_video(make_path(SEED, 300, 1.0), video, (1920, 1080))
            for frames in (100, 300):
                options = ["--models", models[0], "--chunk", str(args.chunk), "--overlap", str(args.overlap)]
                command = [sys.executable, __file__, *options, "--peak", str(video), str(frames)]
                memory[frames] = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
                print(f"{frames} frames of a 1080p video of two minutes: {memory[frames] / 1e6:.0f} MB", flush=True)
    result = {"rows": rows, "memory": memory, "frames": args.frames, "chunking": [args.chunk, args.overlap]}
    result |= environment()
    print(json.dumps(result))
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
