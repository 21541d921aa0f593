"""depth/: 16-bit PNG for tools, float32 NPZ for computing, a coloured preview for people."""

import json
import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from quantvggt.core.files import atomic_folder
from quantvggt.reconstruction.depth import sample_depth
from quantvggt.reconstruction.export.names import frame_files
from quantvggt.reconstruction.export.views import View, make_views
from quantvggt.reconstruction.scene import Scene
from quantvggt.reconstruction.style import ramp

NOTE = "depth = png / depth_scale, along the optical axis, in the scene's unit; 0 = no value; exact in depth.npz"
ROWS = 256
"""Of a large picture's, worked on at a time."""


def write_depth(scene: Scene, path: Path, depth_size: str = "network") -> None:
    """NAME.png, NAME_preview.png per frame; depth.npz: names, depth, confidence; depth.json: scale, files.

    depth_size: "original" makes the PNGs as large as the user's pictures: bilinear within surfaces, the nearest value
    where one ends, 0 where the frame doesn't show the picture. depth.npz and previews stay at the frames' size.
    """
    scale = png_scale(scene.depth)
    files = frame_files(scene)
    views = make_views(scene, depth_size)
    near, far = _range(scene.depth)
    with atomic_folder(path) as folder:
        for file, depth, view in zip(files, scene.depth, views, strict=True):
            shown = depth if view.source is None else enlarged(depth, view)
            units = np.where(shown > 0, np.maximum(np.round(shown * scale), 1), 0)
            Image.fromarray(units.astype(np.uint16)).save(folder / f"{file}.png", compress_level=4)
            Image.fromarray(_preview(depth, near, far)).save(folder / f"{file}_preview.png", compress_level=4)
        with open(folder / "depth.npz", "wb") as stream:
            np.savez_compressed(stream, names=np.array(scene.names), depth=scene.depth, confidence=scene.depth_conf)
        frames = [
            {"name": name, "file": f"{file}.png", "width": view.width, "height": view.height}
            for name, file, view in zip(scene.names, files, views, strict=True)
        ]
        about = {"depth_scale": scale, "note": NOTE, "frames": frames}
        (folder / "depth.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def enlarged(depth: NDArray[np.float32], view: View) -> NDArray[np.float32]:
    """A frame's depth [H, W] at every pixel of its picture."""
    result = np.zeros((view.height, view.width), np.float32)
    height, width = depth.shape
    for top in range(0, view.height, ROWS):
        rows, columns = np.mgrid[top : min(top + ROWS, view.height), 0 : view.width]
        xy = view.to_frame(np.stack([columns.ravel(), rows.ravel()], axis=-1) + 0.5)
        inside = ((xy >= 0) & (xy <= (width, height))).all(-1)
        values = np.zeros(len(xy), np.float32)
        values[inside] = sample_depth(depth, xy[inside])
        result[top : top + ROWS] = values.reshape(rows.shape)
    return result


def png_scale(depth: NDArray[np.float32]) -> float:
    """The largest power of ten at which every depth still fits in 16 bits."""
    largest = float(depth.max())
    return 10.0 ** math.floor(math.log10(65535 / largest)) if largest > 0 else 1.0


def _range(depth: NDArray[np.float32]) -> tuple[float, float]:
    seen = depth[depth > 0]
    if not seen.size:
        return 1.0, 1.0
    near, far = np.percentile(seen, [2, 98])
    return float(near), float(far)


def _preview(depth: NDArray[np.float32], near: float, far: float) -> NDArray[np.uint8]:
    """Near is light, far is dark, evenly in the logarithm of depth; black where there is no value."""
    closeness = np.log(far / np.maximum(depth, near * 1e-3)) / max(np.log(far / near), 1e-6)
    colours = ramp(closeness.clip(0, 1).astype(np.float64))
    colours[depth <= 0] = 0
    return colours
