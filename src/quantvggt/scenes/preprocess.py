"""Picture to model input, as the published loaders of each family do it, without torchvision and OpenCV.

Every step is a scaling and a shift of pixel coordinates, and both are kept, so cameras can be given for the
original picture too: `pixel_in_clip = pixel_in_original * scale + offset`, pixel centres at +0.5.
"""

import warnings
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip

PATCH = 14
WHITE = 1.0
OPAQUE = 128
"""Where alpha is below, there is no picture."""
AREA, AREA_SIZE = 255_000, 518  # the most pixels that Pi3's loader makes, for a model of that size


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

    @property
    def sides(self) -> "Size":
        """Of the pixels."""
        return self.pixels.shape[2], self.pixels.shape[1]

    def mapping(self) -> dict[str, Any]:
        """JSON-able: size of the original in pixels, and scale and offset (x, y) from it to the clip."""
        width, height = self.original_size
        return {"width": width, "height": height, "scale": list(self.scale), "offset": list(self.offset)}


Size = tuple[int, int]
"""Width and height."""


@dataclass(frozen=True)
class Plan:
    """What happens to one picture: it is resized to each of these sizes in turn, then cut or padded to a window around
    its middle."""

    resizes: Sequence[tuple[Size, Image.Resampling]]
    window: Size


@dataclass(frozen=True)
class Mode:
    """plan: for a picture's width and height, and the side that the model was made for.

    joint: the side that frames of unequal sides are brought to: the largest (white is added) or the smallest (they are
    cut); None: all are resized to the first one's sides, see `fit`.
    """

    plan: Callable[[int, int, int], Plan]
    joint: Callable[[int, int], int] | None = max


def _crop(width: int, height: int, size: int) -> Plan:
    fitting = _multiple(height * (size / width))
    return Plan([((size, fitting), Image.Resampling.BICUBIC)], (size, min(fitting, size)))


def _pad(width: int, height: int, size: int) -> Plan:
    whole = (size, _multiple(height * (size / width)))
    if height > width:
        whole = (_multiple(width * (size / height)), size)
    return Plan([(whole, Image.Resampling.BICUBIC)], (size, size))


def _longest(width: int, height: int, size: int) -> Plan:
    """Published code has OpenCV average areas to shrink and interpolate cubically to enlarge: Pillow's box filter and
    bicubic one are the nearest."""
    scale = size / max(width, height)
    rough = max(1, round(width * scale)), max(1, round(height * scale))
    fine = max(PATCH, (rough[0] + PATCH // 2) // PATCH * PATCH), max(PATCH, (rough[1] + PATCH // 2) // PATCH * PATCH)
    steps = [(rough, max(rough) > max(width, height)), (fine, fine[0] > rough[0] or fine[1] > rough[1])]
    box, cubic = Image.Resampling.BOX, Image.Resampling.BICUBIC
    return Plan([(target, cubic if larger else box) for target, larger in steps], fine)


def _area(width: int, height: int, size: int) -> Plan:
    most = AREA * (size / AREA_SIZE) ** 2
    aspect = width / height
    columns, rows = (max(1, round((most * share) ** 0.5 / PATCH)) for share in (aspect, 1 / aspect))
    while columns * rows * PATCH**2 > most and max(columns, rows) > 1:
        if rows == 1 or (columns > 1 and columns / rows > aspect):
            columns -= 1
        else:
            rows -= 1
    fitting = columns * PATCH, rows * PATCH
    return Plan([(fitting, Image.Resampling.LANCZOS)], fitting)


MODES = {
    "crop": Mode(_crop),
    "pad": Mode(_pad),
    "longest": Mode(_longest, joint=min),
    "area": Mode(_area, joint=None),
}
"""crop, VGGT's: the width becomes `size`, the height the nearest multiple of 14; what is taller than `size` is cut
above and below. pad: the larger side becomes `size`, the rest is white, up to `size` x `size`. longest,
Depth-Anything-3's: the larger side becomes `size`, then each the nearest multiple of 14 (ties up), and no white is ever
added. area, Pi3's: the picture becomes as large as 255,000 pixels permit if `size` is 518, in proportion if it isn't,
and all of a clip's frames as large as the first."""


def check_mode(mode: str, size: int) -> None:
    """Raise InputError unless `mode` is known and `size` is a positive multiple of the 14-pixel patch."""
    if mode not in MODES:
        raise InputError(f"unknown preprocessing mode {mode!r}; choose one of: {', '.join(MODES)}")
    if not isinstance(size, int) or size < PATCH or size % PATCH:
        raise InputError(f"image size {size} is not a positive multiple of {PATCH}; VGGT was trained at 518")


def fit(
    image: Image.Image, mode: str, size: int, alpha: Image.Image | None = None, first: Size | None = None
) -> Fitted:
    """Resize one RGB picture as a published loader does, see `MODES`; alpha: its transparency, 8 bits, None if it has
    none. first: what the clip's first frame was resized to, and this one is to be, whatever its own sides."""
    width, height = image.size
    plan = MODES[mode].plan(width, height, size)
    if first is not None:
        plan = Plan([(first, plan.resizes[-1][1])], first)
    pixels = torch.from_numpy(np.array(_resized(image, plan))).permute(2, 0, 1).float().div_(255).contiguous()
    scale = pixels.shape[2] / width, pixels.shape[1] / height
    fitted = Fitted(pixels, (width, height), scale, (0, 0))
    if alpha is not None:
        fitted = replace(fitted, shown=torch.from_numpy(np.array(_resized(alpha, plan)) >= OPAQUE))
    return centred(fitted, plan.window[1], plan.window[0])


def _resized(image: Image.Image, plan: Plan) -> Image.Image:
    for target, resampling in plan.resizes:
        if image.size != target:
            image = image.resize(target, resampling)
    return image


def centred(fitted: Fitted, height: int, width: int) -> Fitted:
    """The picture in the middle of height x width pixels: white where it is smaller, cut where it is larger."""
    missing_y, missing_x = height - fitted.pixels.shape[1], width - fitted.pixels.shape[2]
    if not missing_y and not missing_x:
        return fitted
    top, left = missing_y // 2, missing_x // 2
    sides = (left, missing_x - left, top, missing_y - top)
    pixels = F.pad(fitted.pixels, sides, value=WHITE)
    shown = None if fitted.shown is None else F.pad(fitted.shown, sides, value=False)
    x, y = fitted.offset
    return replace(fitted, pixels=pixels, offset=(x + left, y + top), shown=shown)


def to_clip(
    frames: list[Fitted], names: list[str], source: dict[str, Any], described: list[dict[str, Any]], what: str
) -> Clip:
    """A clip of these pictures, brought to one size as the source's mode says.

    described: for each frame what is known of it beside the mapping; what: the source, for a warning about a single
    view. Warns as well where sizes differ and where rows were cut.
    """
    warn_if_cut([cut_share(frame) for frame in frames])
    warn_if_single(len(frames), what)
    return stacked(to_common_size(frames, MODES[source["mode"]].joint), names, source, described)


def stacked(
    frames: Sequence[Fitted], names: list[str], source: dict[str, Any], described: Sequence[dict[str, Any]]
) -> Clip:
    """A clip of pictures that are of one size already."""
    mapped = [{**known, **frame.mapping()} for known, frame in zip(described, frames, strict=True)]
    return Clip(
        images=torch.stack([frame.pixels for frame in frames]),
        names=names,
        source={**source, "frames": mapped},
        shown=_shown(frames),
    )


def _shown(frames: Sequence[Fitted]) -> Tensor | None:
    if all(frame.shown is None for frame in frames):
        return None
    shown = torch.zeros(len(frames), *frames[0].pixels.shape[-2:], dtype=torch.bool)
    for index, frame in enumerate(frames):
        rows, columns = covered(frame.mapping(), *shown.shape[1:])
        shown[index, rows, columns] = True if frame.shown is None else frame.shown[rows, columns]
    return shown


def to_common_size(frames: list[Fitted], joint: Callable[[int, int], int] | None) -> list[Fitted]:
    """Bring every picture to one height and width, see `Mode.joint`; warns when they differ."""
    shapes = {(frame.pixels.shape[1], frame.pixels.shape[2]) for frame in frames}
    if len(shapes) == 1 or joint is None:
        return frames
    height, width = common_size(shapes, joint)
    warn_if_shapes_differ(shapes, joint)
    return [centred(frame, height, width) for frame in frames]


def common_size(shapes: Collection[tuple[int, int]], joint: Callable[[int, int], int]) -> tuple[int, int]:
    """Height and width for frames of these, see `Mode.joint`."""
    height, width = (reduce(joint, sides) for sides in zip(*shapes, strict=True))
    return height, width


def warn_if_shapes_differ(shapes: Collection[tuple[int, int]], joint: Callable[[int, int], int]) -> None:
    """What will be done about it: the user should know."""
    if len(set(shapes)) > 1:
        height, width = common_size(shapes, joint)
        sizes = ", ".join(f"{w}x{h}" for h, w in sorted(set(shapes)))
        how = "padded with white" if joint is max else "cut"
        warnings.warn(
            f"the images differ in shape after resizing ({sizes}); all are {how} to {width}x{height}", stacklevel=5
        )


def warn_if_single(count: int, what: str) -> None:
    """One view is allowed, but says nothing about motion: the user should know."""
    if count == 1:
        warnings.warn(
            f"{what} gives a single view: expect its depth and its field of view, but no camera motion; "
            "two or more overlapping views make a real reconstruction",
            stacklevel=4,
        )


def cut_share(frame: Fitted) -> float:
    """Of the rows of a picture that is wide enough, those that its frame doesn't show."""
    return 1 - frame.pixels.shape[1] / round(frame.original_size[1] * frame.scale[1])


def warn_if_cut(shares: Sequence[float]) -> None:
    """Crop mode cuts pictures that are taller than wide, as the published loader does: the user should know.

    shares: of each frame, see `cut_share`.
    """
    cut = [share for share in shares if share > 0]
    if cut:
        warnings.warn(
            f"{len(cut)} of {len(shares)} pictures are taller than wide: crop mode cuts up to {max(cut):.0%} of their "
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
