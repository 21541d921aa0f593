"""Picture to model input: the published VGGT preprocessing (width 518, multiples of 14), without torchvision.

Every step is a scaling and a shift of pixel coordinates, and both are kept, so cameras can be given for the
original picture too: `pixel_in_clip = pixel_in_original * scale + offset`, pixel centres at +0.5.
"""

import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from quantvggt.core.errors import InputError

MODES = ("crop", "pad")
PATCH = 14
WHITE = 1.0


@dataclass(frozen=True)
class Fitted:
    """One preprocessed picture: pixels float32 [3, h, w] in [0, 1], and where they lie in the original."""

    pixels: Tensor
    original_size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[int, int]

    def mapping(self) -> dict[str, Any]:
        """JSON-able: size of the original in pixels, and scale and offset (x, y) from it to the clip."""
        width, height = self.original_size
        return {"width": width, "height": height, "scale": list(self.scale), "offset": list(self.offset)}


def check_mode(mode: str, size: int) -> None:
    """Raise InputError unless `mode` is known and `size` is a positive multiple of the 14-pixel patch."""
    if mode not in MODES:
        raise InputError(f"unknown preprocessing mode {mode!r}; choose one of: {', '.join(MODES)}")
    if not isinstance(size, int) or size < PATCH or size % PATCH:
        raise InputError(f"image size {size} is not a positive multiple of {PATCH}; VGGT was trained at 518")


def fit(image: Image.Image, mode: str, size: int) -> Fitted:
    """Resize one RGB picture as the published loader does.

    crop: the width becomes `size`, the height the nearest multiple of 14; what is taller than `size` is cut
    above and below. pad: the larger side becomes `size`, the rest is white, up to `size` x `size`.
    """
    width, height = image.size
    if mode == "pad" and height > width:
        new_width, new_height = _multiple(width * (size / height)), size
    else:
        new_width, new_height = size, _multiple(height * (size / width))
    resized = image.resize((new_width, new_height), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float().div_(255).contiguous()
    fitted = Fitted(pixels, (width, height), (new_width / width, new_height / height), (0, 0))
    if mode == "pad":
        return pad_to(fitted, size, size)
    top = max(0, (new_height - size) // 2)
    return replace(fitted, pixels=pixels[:, top : top + size].contiguous(), offset=(0, -top))


def pad_to(fitted: Fitted, height: int, width: int) -> Fitted:
    """Centre the picture on a white canvas of the given size."""
    missing_y, missing_x = height - fitted.pixels.shape[1], width - fitted.pixels.shape[2]
    top, left = missing_y // 2, missing_x // 2
    pixels = F.pad(fitted.pixels, (left, missing_x - left, top, missing_y - top), value=WHITE)
    x, y = fitted.offset
    return replace(fitted, pixels=pixels, offset=(x + left, y + top))


def to_common_size(frames: list[Fitted]) -> list[Fitted]:
    """Pad every picture to the largest height and width of the set; warns when they differ."""
    shapes = {tuple(frame.pixels.shape[1:]) for frame in frames}
    if len(shapes) == 1:
        return frames
    height, width = max(h for h, _ in shapes), max(w for _, w in shapes)
    sizes = ", ".join(f"{w}x{h}" for h, w in sorted(shapes))
    warnings.warn(
        f"the images differ in shape after resizing ({sizes}); all are padded with white to {width}x{height}",
        stacklevel=3,
    )
    return [pad_to(frame, height, width) for frame in frames]


def warn_if_single(count: int, what: str) -> None:
    """One view is allowed, but says nothing about motion: the user should know."""
    if count == 1:
        warnings.warn(
            f"{what} gives a single view: expect its depth and its field of view, but no camera motion; "
            "two or more overlapping views make a real reconstruction",
            stacklevel=3,
        )


def _multiple(length: float) -> int:
    # A very long picture would round to nothing: one patch is the least there can be.
    return max(PATCH, round(length / PATCH) * PATCH)


def frame_mappings(source: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The mappings that a clip read from files keeps for its `count` frames in `source`, or []."""
    frames = source.get("frames")
    if not isinstance(frames, list) or len(frames) != count:
        return []
    return frames if all("scale" in frame for frame in frames) else []


def covered(mapping: dict[str, Any], height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of a height x width frame that show the picture; the rest is white padding."""
    (scale_x, scale_y), (left, top) = mapping["scale"], mapping["offset"]
    bottom, right = round(top + mapping["height"] * scale_y), round(left + mapping["width"] * scale_x)
    return slice(max(0, top), min(height, bottom)), slice(max(0, left), min(width, right))
