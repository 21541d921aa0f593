"""trajectory.txt: the cameras as a trajectory in the TUM RGB-D benchmark's format, which evo and others read.

Format: https://cvg.cit.tum.de/data/datasets/rgbd-dataset/file_formats.
"""

from pathlib import Path

import numpy as np

from quantvggt.core.files import atomic_file
from quantvggt.reconstruction.geometry import invert, quaternions
from quantvggt.reconstruction.scene import Scene
from quantvggt.scenes.preprocess import frame_mappings


def write_tum(scene: Scene, path: Path) -> None:
    """`timestamp tx ty tz qx qy qz qw` per frame, camera-to-world; seconds in the video, or the frame's number."""
    frames = frame_mappings(scene.provenance.get("source", {}), len(scene.names))
    timed = bool(frames) and all("time" in frame for frame in frames)
    times = [float(frame["time"]) for frame in frames] if timed else list(map(float, range(len(scene.names))))
    back = invert(scene.extrinsics)
    turns = quaternions(back)
    lines = ["# timestamp tx ty tz qx qy qz qw"]
    for time, centre, turn in zip(times, back[:, :, 3], turns, strict=True):
        lines.append(f"{time:.6f} " + " ".join(f"{value:.9g}" for value in np.concatenate([centre, turn])))
    with atomic_file(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
