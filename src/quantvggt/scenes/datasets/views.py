"""Frames with truth, as they lie on disk, to a clip."""

import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip, GroundTruth
from quantvggt.scenes.datasets.contract import Dataset, Picture
from quantvggt.scenes.datasets.pixels import Placed, joint_size, place, window
from quantvggt.scenes.datasets.read import Floats, Matrix
from quantvggt.scenes.names import printable

UNKNOWN_LENS, UNKNOWN_POSE = np.full((3, 3), np.nan), np.full((3, 4), np.nan)
"""Of datasets that have none: NaN in the truth, too. A frame whose numbers aren't finite otherwise is left out."""
OPENGL = np.array([1.0, -1.0, -1.0, 1.0])
"""Columns of a camera-to-world matrix: x right, y up, z backward to OpenCV's, and back."""
SQUARE = np.array([[0.0, 0.0, 0.0, 1.0]])


@dataclass(frozen=True)
class View:
    """One frame of a dataset.

    image: RGB, read from `path`; lens: float64 [3, 3] in its pixels, centres at +0.5; extrinsics: float64 [3, 4],
    world-to-camera, OpenCV; depth: float32 [H, W] along the optical axis, what isn't finite and positive is none;
    valid: bool [H, W], see `GroundTruth`.
    """

    name: str
    path: Path
    image: Image.Image
    lens: Matrix
    extrinsics: Matrix
    depth: Floats | None = None
    valid: NDArray[np.bool_] | None = None


def clip_of(dataset: Dataset, scene: str, views: Iterable[View], picture: Picture) -> Clip:
    """The clip of these views, prepared one after the other; pictures of different shapes are padded to one.

    Frames whose camera isn't finite are left out, with a warning. Raises InputError if none is left, or if depth and
    picture differ in size.
    """
    placed: list[Placed] = []
    kept, depths, valids = [], [], []
    for view in views:
        if not _usable(view.extrinsics, UNKNOWN_POSE) or not _usable(view.lens, UNKNOWN_LENS):
            warnings.warn(f"{printable(view.path)} is left out: its camera isn't finite", stacklevel=3)
            continue
        for values in (view.depth, view.valid):
            if values is not None and values.shape != (view.image.height, view.image.width):
                raise InputError(
                    f"{printable(view.path)} has {view.image.width}x{view.image.height} pixels, its depth or mask "
                    f"{values.shape[1]}x{values.shape[0]}; fetch both again"
                )
        first = (placed[0].pixels.shape[2], placed[0].pixels.shape[1]) if placed else None
        one = place(view.image, view.lens, picture, first)
        placed.append(one)
        kept.append((view.name, view.path, view.image.size, view.extrinsics))
        depths.append(None if view.depth is None else one.sample(view.depth))
        valids.append(None if view.valid is None else one.sample(view.valid))
    if not placed:
        raise InputError(f"scene {scene} of dataset {dataset.name} has no frame with a finite camera")
    height, width = joint_size(placed, picture)
    frames = [one.centred(height, width) for one in placed]
    source = {
        "kind": "dataset",
        "dataset": dataset.name,
        "scene": scene,
        "mode": picture.mode,
        "size": picture.size,
        "frames": [
            {"path": str(path), "width": size[0], "height": size[1], "scale": list(f.scale), "offset": list(f.offset)}
            for (_, path, size, _), f in zip(kept, frames, strict=True)
        ],
    }
    nothing = np.zeros((height, width), np.float32)
    depth = torch.from_numpy(np.stack([nothing if d is None else window(d, height, width, 0) for d in depths]))
    depth = torch.where(torch.isfinite(depth) & (depth > 0), depth, 0)
    masks = [window(mask, height, width, False) for mask in valids if mask is not None]
    truth = GroundTruth(
        extrinsics=torch.from_numpy(np.stack([extrinsics for *_, extrinsics in kept]).astype(np.float32)),
        intrinsics=torch.from_numpy(np.stack([one.lens for one in frames]).astype(np.float32)),
        depth=depth,
        valid=torch.from_numpy(np.stack(masks)) & (depth > 0) if masks else None,
    )
    return Clip(torch.stack([one.pixels for one in frames]), [name for name, *_ in kept], source, truth)


def _usable(matrix: Matrix, unknown: Matrix) -> bool:
    return matrix is unknown or bool(np.isfinite(matrix).all())


def pinhole(fx: float, fy: float, cx: float, cy: float, whole: bool = False) -> Matrix:
    """Intrinsics [3, 3]. whole: given with pixel centres at whole numbers, as OpenCV has them, instead of +0.5."""
    shift = 0.5 if whole else 0.0
    return np.array([[fx, 0, cx + shift], [0, fy, cy + shift], [0, 0, 1.0]])


def inverse(pose: Matrix) -> Matrix:
    """Camera-to-world [3 or 4, 4] to world-to-camera [3, 4], or back; NaN if it isn't finite or can't be inverted."""
    square = np.concatenate([pose[:3], SQUARE])
    if not np.isfinite(square).all() or abs(np.linalg.det(square)) < 1e-12:
        return np.full((3, 4), np.nan)
    return np.linalg.inv(square)[:3]
