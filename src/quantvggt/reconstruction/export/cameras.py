"""cameras.json: the cameras for people and scripts, with the conventions spelled out."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.files import atomic_file
from quantvggt.reconstruction.lens import original_lens
from quantvggt.reconstruction.scene import Scene
from quantvggt.scenes.preprocess import frame_mappings

CONVENTION = {
    "extrinsics": "world to camera [R | t], x_camera = R x_world + t; OpenCV: x right, y down, z forward",
    "intrinsics": "[[fx, 0, cx], [0, fy, cy], [0, 0, 1]] in pixels; the first pixel is centred at (0.5, 0.5)",
    "world": "the frame of the first camera; the unit of length is the model's own, or the metre if made_by.scale is "
    "metric; with given extrinsics both are theirs",
    "original": "the upright picture before resizing, cropping or padding, and the intrinsics that fit it",
}


def write_cameras(scene: Scene, path: Path) -> None:
    """Per frame its name, size, extrinsics and intrinsics, and the same camera for the original picture."""
    height, width = scene.size
    sources = frame_mappings(scene.provenance.get("source", {}), len(scene.names))
    frames = []
    for index, name in enumerate(scene.names):
        frame: dict[str, Any] = {
            "name": name,
            "width": width,
            "height": height,
            "extrinsics": scene.extrinsics[index].tolist(),
            "intrinsics": scene.intrinsics[index].tolist(),
        }
        if sources:
            frame["original"] = _original(scene.intrinsics[index], sources[index])
        frames.append(frame)
    made_by = {key: value for key, value in scene.provenance.items() if key != "source"}
    with atomic_file(path) as temporary:
        text = json.dumps({"convention": CONVENTION, "made_by": made_by, "frames": frames}, indent=1)
        temporary.write_text(text + "\n", encoding="utf-8")


def _original(lens: NDArray[np.float32], source: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {key: source[key] for key in ("path", "frame", "time", "width", "height") if key in source}
    return {**kept, "intrinsics": original_lens(lens, source).tolist()}
