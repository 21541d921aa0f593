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
from quantvggt.scenes.clip import Clip

MODES = ("crop", "pad")
PATCH = 14
WHITE = 1.0
OPAQUE = 128
"""Where alpha is below, there is no picture."""


@dataclass(frozen=True)
class Fitted:
    """One preprocessed picture: pixels float32 [3, h, w] in [0, 1], and where they lie in the original.

    shown: bool [h, w], False where the picture is transparent, and in the padding; None if it is opaque.
    """

    pixels: Tensor
    original_size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[int, int]
    shown: Tensor | None = None

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


def fit(image: Image.Image, mode: str, size: int, alpha: Image.Image | None = None) -> Fitted:
    """Resize one RGB picture as the published loader does; alpha: its transparency, 8 bits, None if it has none.

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
    if alpha is not None:
        opacity = alpha.resize((new_width, new_height), Image.Resampling.BICUBIC)
        fitted = replace(fitted, shown=torch.from_numpy(np.array(opacity) >= OPAQUE))
    if mode == "pad":
        return pad_to(fitted, size, size)
    top = max(0, (new_height - size) // 2)
    shown = None if fitted.shown is None else fitted.shown[top : top + size]
    return replace(fitted, pixels=pixels[:, top : top + size].contiguous(), offset=(0, -top), shown=shown)


def pad_to(fitted: Fitted, height: int, width: int) -> Fitted:
    """Centre the picture on a white canvas of the given size."""
    missing_y, missing_x = height - fitted.pixels.shape[1], width - fitted.pixels.shape[2]
    top, left = missing_y // 2, missing_x // 2
    sides = (left, missing_x - left, top, missing_y - top)
    pixels = F.pad(fitted.pixels, sides, value=WHITE)
    shown = None if fitted.shown is None else F.pad(fitted.shown, sides, value=False)
    x, y = fitted.offset
    return replace(fitted, pixels=pixels, offset=(x + left, y + top), shown=shown)


def to_clip(
    frames: list[Fitted], names: list[str], source: dict[str, Any], described: list[dict[str, Any]], what: str
) -> Clip:
    """A clip of these pictures, padded to one size.

    described: for each frame what is known of it beside the mapping; what: the source, for a warning about a single
    view. Warns as well where sizes differ and where rows were cut.
    """
    warn_if_cut(frames)
    warn_if_single(len(frames), what)
    frames = to_common_size(frames)
    mapped = [{**known, **frame.mapping()} for known, frame in zip(described, frames, strict=True)]
    return Clip(
        images=torch.stack([frame.pixels for frame in frames]),
        names=names,
        source={**source, "frames": mapped},
        shown=_shown(frames),
    )


def _shown(frames: list[Fitted]) -> Tensor | None:
    if all(frame.shown is None for frame in frames):
        return None
    shown = torch.zeros(len(frames), *frames[0].pixels.shape[-2:], dtype=torch.bool)
    for index, frame in enumerate(frames):
        rows, columns = covered(frame.mapping(), *shown.shape[1:])
        shown[index, rows, columns] = True if frame.shown is None else frame.shown[rows, columns]
    return shown


def to_common_size(frames: list[Fitted]) -> list[Fitted]:
    """Pad every picture to the largest height and width of the set; warns when they differ."""
    shapes = {tuple(frame.pixels.shape[1:]) for frame in frames}
    if len(shapes) == 1:
        return frames
    height, width = max(h for h, _ in shapes), max(w for _, w in shapes)
    sizes = ", ".join(f"{w}x{h}" for h, w in sorted(shapes))
    warnings.warn(
        f"the images differ in shape after resizing ({sizes}); all are padded with white to {width}x{height}",
        stacklevel=4,
    )
    return [pad_to(frame, height, width) for frame in frames]


def warn_if_single(count: int, what: str) -> None:
    """One view is allowed, but says nothing about motion: the user should know."""
    if count == 1:
        warnings.warn(
            f"{what} gives a single view: expect its depth and its field of view, but no camera motion; "
            "two or more overlapping views make a real reconstruction",
            stacklevel=4,
        )


def warn_if_cut(frames: list[Fitted]) -> None:
    """Crop mode cuts pictures that are taller than wide, as the published loader does: the user should know."""
    wholes = [round(frame.original_size[1] * frame.scale[1]) for frame in frames]
    lost = [1 - frame.pixels.shape[1] / whole for frame, whole in zip(frames, wholes, strict=True)]
    cut = [share for share in lost if share > 0]
    if cut:
        warnings.warn(
            f"{len(cut)} of {len(frames)} pictures are taller than wide: crop mode cuts up to {max(cut):.0%} of their "
            "rows, at top and bottom; pad mode (--mode pad) keeps all",
            stacklevel=4,
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
