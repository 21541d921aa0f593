"""Time to write a scene of a million points, in every format.

    python benchmarks/export_time.py [--frames 5] [--size 392x518]

The scene is a wavy wall with seeded texture, seen by cameras side by side; every pixel is a point (no confidence is too
low, nothing is merged), so that every format writes as many. Choosing points and finding their tracks is timed apart.
The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from quantvggt.core.machine import environment
from quantvggt.reconstruction.export import FORMATS, ExportOptions, export, points_of
from quantvggt.reconstruction.geometry import unproject
from quantvggt.reconstruction.scene import Scene


def wall(frames: int, height: int, width: int) -> Scene:
    """Cameras 0.3 apart that look at a wall about 4 away; depth as one pass of fixed-point iteration finds it."""
    focal = 0.9 * width
    lens = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], np.float32)
    y, x = (np.mgrid[0:height, 0:width] + 0.5 - np.array([height, width])[:, None, None] / 2) / focal
    extrinsics = np.tile(np.eye(3, 4, dtype=np.float32), (frames, 1, 1))
    depth, images = np.empty((frames, height, width), np.float32), np.empty((frames, height, width, 3), np.uint8)
    noise = np.random.default_rng(0).integers(0, 60, (frames, height, width, 3))
    for frame in range(frames):
        extrinsics[frame, 0, 3] = -0.3 * frame
        z = np.full((height, width), 4.0)
        for _ in range(8):
            z = 4 + 0.4 * np.sin(2 * (x * z + 0.3 * frame)) * np.cos(2 * y * z)
        depth[frame] = z
        colours = 0.5 + 0.4 * np.sin(np.stack([3 * (x * z + 0.3 * frame), 5 * y * z, 4 * z], -1))
        images[frame] = np.clip(195 * colours + noise[frame], 0, 255)
    intrinsics = np.tile(lens, (frames, 1, 1))
    points = unproject(depth, extrinsics, intrinsics)
    confidence = 1 + np.random.default_rng(1).random(depth.shape, np.float32)
    names = [f"{frame:03d}" for frame in range(frames)]
    return Scene(names, images, extrinsics, intrinsics, depth, confidence, points, confidence.copy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--size", default="392x518", help="height x width of a frame")
    args = parser.parse_args()
    height, width = map(int, args.size.split("x"))
    scene = wall(args.frames, height, width)
    options = ExportOptions(min_confidence=0, clean=False, voxel=0)
    start = time.perf_counter()
    cloud = points_of(scene, options)
    seconds = {"points and tracks": time.perf_counter() - start}
    with tempfile.TemporaryDirectory() as folder:
        for name in FORMATS:
            start = time.perf_counter()
            export(scene, Path(folder), [name], options, cloud=cloud)
            seconds[name] = time.perf_counter() - start
    print(f"{len(cloud):,} points, {len(cloud.tracks):,} observations", file=sys.stderr)
    for name, taken in seconds.items():
        print(f"{name:18} {taken:6.2f} s", file=sys.stderr)
    rounded = {name: round(taken, 2) for name, taken in seconds.items()}
    counts = {"points": len(cloud), "observations": len(cloud.tracks)}
    print(json.dumps({**counts, "seconds": rounded, "total_s": round(sum(seconds.values()), 2), **environment()}))


if __name__ == "__main__":
    main()
