"""One picture to a clip's pixels, with its intrinsics and where each row and column of the truth is taken from.

Intrinsics have pixel centres at +0.5. Published loaders have them at whole numbers and pick the nearest value of depth
as OpenCV's INTER_NEAREST does; modes of `contract.PUBLISHED` repeat that, all others take what lies at the centre.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from quantvggt.core.errors import InputError
from quantvggt.scenes.datasets.contract import Picture
from quantvggt.scenes.preprocess import MODES, PATCH, WHITE, fit

Places = NDArray[np.intp]


@dataclass(frozen=True)
class Placed:
    """One picture as a clip shows it.

    pixels: float32 [3, h, w] in [0, 1]; lens: float64 [3, 3], the intrinsics there;
    rows [h], columns [w]: of the original, where the truth of each pixel is taken from, -1 where there is none;
    scale, offset (x, y): `pixel_in_clip = pixel_in_original * scale + offset`.
    """

    pixels: Tensor
    lens: NDArray[np.float64]
    rows: Places
    columns: Places
    scale: tuple[float, float]
    offset: tuple[float, float]

    def sample(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        """Values of the original [H, W] at the clip's pixels [h, w]; 0 where there are none."""
        taken = values[np.ix_(np.maximum(self.rows, 0), np.maximum(self.columns, 0))]
        inside = (self.rows >= 0)[:, None] & (self.columns >= 0)
        return np.where(inside, taken, np.zeros((), values.dtype))

    def centred(self, height: int, width: int) -> "Placed":
        """In the middle of so many pixels: white where it is smaller, cut where it is larger."""
        missing_y, missing_x = height - self.pixels.shape[1], width - self.pixels.shape[2]
        if not missing_x and not missing_y:
            return self
        top, left = missing_y // 2, missing_x // 2
        lens = self.lens.copy()
        lens[:2, 2] += left, top
        return replace(
            self,
            pixels=F.pad(self.pixels, (left, missing_x - left, top, missing_y - top), value=WHITE),
            lens=lens,
            rows=window(self.rows[:, None], height, 1, -1)[:, 0],
            columns=window(self.columns[None], 1, width, -1)[0],
            offset=(self.offset[0] + left, self.offset[1] + top),
        )


def window(values: NDArray[Any], height: int, width: int, fill: Any) -> NDArray[Any]:
    """Values [h, w] in the middle of [height, width], cut or with `fill` around them, as `Placed.centred` does it."""
    for axis, side in ((0, height), (1, width)):
        missing = side - values.shape[axis]
        before = missing // 2
        if missing > 0:
            around = [(0, 0), (0, 0)]
            around[axis] = (before, missing - before)
            values = np.pad(values, around, constant_values=fill)
        elif missing < 0:
            values = values.take(range(-before, side - before), axis)
    return values


def joint_size(placed: Sequence[Placed], picture: Picture) -> tuple[int, int]:
    """Height and width that all frames are brought to: the smallest ones where the mode says so, else the largest."""
    mode = MODES.get(picture.mode)
    joint = min if mode is not None and mode.joint is min else max
    height, width = (joint(one.pixels.shape[axis] for one in placed) for axis in (1, 2))
    return height, width


def place(
    image: Image.Image, lens: NDArray[np.float64], picture: Picture, first: tuple[int, int] | None = None
) -> Placed:
    """An RGB picture with intrinsics [3, 3] as `picture` wants it; first: width and height of the clip's first frame as
    placed, for modes that give all frames its size. Raises InputError if it can't be made so."""
    if picture.mode == "crop-resize":
        return _crop_resize(image, lens, picture)
    if picture.mode in MODES:
        fitted = fit(image, picture.mode, picture.size, first=first if MODES[picture.mode].joint is None else None)
        return _exact(fitted.pixels, image.size, lens, fitted.scale, fitted.offset)
    if picture.mode == "pi3":
        shape = picture.size, max(1, round(image.height * picture.size / image.width))
        pixels = _pixels(image.resize(shape, Image.Resampling.LANCZOS))
        height, width = (max(PATCH, side // PATCH * PATCH) for side in pixels.shape[1:])
        pixels = F.interpolate(pixels[None], (height, width), mode="bilinear", antialias=True)[0].clamp(0, 1)
        return _exact(pixels, image.size, lens, (width / image.width, height / image.height), (0, 0))
    width, height = picture.size, picture.height or _height(image, picture.size)
    pixels = _pixels(image.resize((width, height), Image.Resampling.BICUBIC))
    scale = width / image.width, height / image.height
    placed = _exact(pixels, image.size, lens, scale, (0, 0))
    if picture.mode == "stretch":
        return placed
    wrong = np.diag([scale[1], scale[1], 1]) @ lens
    rows, columns = inter_nearest(image.height, height), inter_nearest(image.width, width)
    return replace(placed, lens=wrong, rows=rows, columns=columns)


def _crop_resize(image: Image.Image, lens: NDArray[np.float64], picture: Picture) -> Placed:
    """Cut so that the principal point is in the middle, scale to cover, cut to size around the middle.

    The scale that the intrinsics get is the one before sizes are rounded to pixels, as published.
    """
    width, height = picture.size, picture.height or _height(image, picture.size)
    if not np.isfinite(lens).all():
        raise InputError(
            "mode crop-resize cuts around the principal point, which this dataset doesn't tell; use another"
        )
    centre = [round(float(value) - 0.5) for value in lens[:2, 2]]  # published centres are whole numbers
    reach = [min(c, side - c) for c, side in zip(centre, image.size, strict=True)]
    if min(reach) < 1:
        raise InputError(f"the principal point {centre} lies outside a picture of {image.width}x{image.height}")
    before = [c - r for c, r in zip(centre, reach, strict=True)]
    inside = [2 * r for r in reach]
    scale = max(width / inside[0], height / inside[1]) + 1e-8
    whole = [int(side * scale) for side in inside]
    box = (before[0], before[1], before[0] + inside[0], before[1] + inside[1])
    resized = image.crop(box).resize((whole[0], whole[1]), Image.Resampling.LANCZOS)
    after = [_round((side - out) / 2) for side, out in zip(whole, (width, height), strict=True)]
    pixels = _pixels(resized.crop((after[0], after[1], after[0] + width, after[1] + height)))
    wrong = lens.copy()
    wrong[:2] *= scale
    for axis in (0, 1):
        lost = (inside[axis] * scale - whole[axis]) / 2
        wrong[axis, 2] = (lens[axis, 2] - before[axis]) * scale - lost - after[axis]
    rows = before[1] + inter_nearest(inside[1], whole[1])[after[1] : after[1] + height]
    columns = before[0] + inter_nearest(inside[0], whole[0])[after[0] : after[0] + width]
    scales = whole[0] / inside[0], whole[1] / inside[1]
    offset = tuple(-b * s - a for b, s, a in zip(before, scales, after, strict=True))
    return Placed(pixels, wrong, rows, columns, scales, (offset[0], offset[1]))


def _exact(
    pixels: Tensor,
    size: tuple[int, int],
    lens: NDArray[np.float64],
    scale: tuple[float, float],
    offset: tuple[float, float],
) -> Placed:
    """Truth at the centre of every pixel, of an original of `size` (width, height)."""
    sides = pixels.shape[2], pixels.shape[1]
    columns, rows = (
        np.floor((np.arange(side) + 0.5 - o) / s).astype(np.intp)
        for side, s, o in zip(sides, scale, offset, strict=True)
    )
    columns[(columns < 0) | (columns >= size[0])] = -1
    rows[(rows < 0) | (rows >= size[1])] = -1
    mapped = np.array([[scale[0], 0, offset[0]], [0, scale[1], offset[1]], [0, 0, 1]]) @ lens
    return Placed(pixels, mapped, rows, columns, scale, offset)


def inter_nearest(source: int, target: int) -> Places:
    """Where OpenCV's INTER_NEAREST takes each of `target` pixels from."""
    return np.minimum((np.arange(target) * (source / target)).astype(np.intp), source - 1)


def _height(image: Image.Image, width: int) -> int:
    return max(PATCH, round(image.height * width / image.width / PATCH) * PATCH)


def _pixels(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div_(255).contiguous()


def _round(value: float) -> int:
    return int(np.round(value))
