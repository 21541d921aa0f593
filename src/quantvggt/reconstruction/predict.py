"""Images to a Scene with a model, quantized or not."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from quantvggt.core.errors import InputError, QuantVGGTError
from quantvggt.models import Answers, Given, Model
from quantvggt.reconstruction.answered import array_of, cameras_of, has_focal
from quantvggt.reconstruction.geometry import to_camera, unproject
from quantvggt.reconstruction.lens import clip_lens
from quantvggt.reconstruction.scene import Scene
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.preprocess import covered, frame_mappings

Array = NDArray[np.float32]
_REMEDY = "check the model's weights, and run it in float32 or bfloat16"
NEEDED_HEADS = {"depth": ("camera", "depth"), "pointmap": ("camera", "point")}


def reconstruct(
    model: Model,
    clip: Clip,
    points: str = "depth",
    model_name: str = "VGGT",
    intrinsics: NDArray[np.float64] | None = None,
    given: Given | None = None,
    spare: NDArray[np.float32] | None = None,
    tell: bool = True,
) -> Scene:
    """Run the model on a clip, where the model lives and in its dtype.

    points: where the world points come from: "depth" unprojects depth with the predicted cameras (the more
    accurate of the two in the VGGT paper, section 4.3), "pointmap" takes the point head's own; a model
    without a depth head then gets its depth from those points. model_name goes into the scene's provenance.
    White padding, transparency and values that aren't finite get depth 0 and confidence 0.
    intrinsics: known ones [S, 3, 3], in pixels of the user's pictures (of the frames where there are none), which stand
    in for the model's. given: what the model is told beforehand (`Model.takes`), in pixels of the frames.
    A frame whose pose isn't finite, or none of whose depths is, is left out, with one warning for all of them. One that
    has no field of view borrows the other frames' median intrinsics (`answered.cameras_of`), also with one warning, and
    is named in provenance["borrowed_lens"].
    If the camera head gives no field of view in any frame, cameras are those that the point head's points imply, with a
    warning. spare: intrinsics [3, 3] in pixels of the frames, for frames without a field of view if none here has one.
    tell: if not, frames that are left out or borrow are not warned of.
    Raises InputError if `points` is unknown, the model lacks a head, the frames don't fit its patches or the GPU's
    memory, or all are transparent everywhere; QuantVGGTError if no frame is left.
    """
    check_request(model, points)
    shown = _shown(clip)
    if not shown.any():
        raise InputError("all pictures are transparent everywhere; save them without transparency")

    try:
        with torch.inference_mode():
            images = clip.images[None].to(model.device)
            answers = model.answers(images) if given is None else model.answers(images, given=given)
    except torch.OutOfMemoryError as error:
        frames, _, height, width = clip.images.shape
        raise InputError(
            f"{frames} frames of {width}x{height} at once are more than the GPU's memory, or what it may take of it "
            "(--max-memory), has room for: take fewer frames (--frames), or chunks of fewer (--chunk)"
        ) from error
    extrinsics, lenses, borrowed = cameras_of(answers, spare, borrow=intrinsics is None)
    if intrinsics is not None:
        lenses = _known(intrinsics, clip)
    usable = _usable(answers, points, extrinsics, lenses)
    if not usable.any():
        raise QuantVGGTError(
            "the model's cameras are not finite, or its depth, in any frame (an overflow, or a field of view of zero); "
            f"{_REMEDY}"
        )
    names = [name for name, kept in zip(clip.names, usable, strict=True) if kept]
    lent = [name for name, kept in zip(clip.names, usable & borrowed, strict=True) if kept]
    if tell:
        tell_left_out([name for name in clip.names if name not in names], len(clip.names))
        tell_borrowed(lent, len(clip.names))
    depth, depth_conf, world, world_conf = (
        array[usable] for array in _dense(answers, points, extrinsics, lenses, shown)
    )
    images = clip.images[torch.from_numpy(usable)].permute(0, 2, 3, 1)
    quantization = model.quantization
    return Scene(
        names=names,
        images=(images * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy(),
        extrinsics=extrinsics[usable],
        intrinsics=lenses[usable],
        depth=depth,
        depth_conf=depth_conf,
        points=world,
        points_conf=world_conf,
        provenance={
            "model": model_name,
            "method": quantization.method if quantization else "float",
            "scheme": quantization.scheme.name if quantization else "float32",
            "points": points,
            **({} if model.attention == "exact" else {"attention": model.attention}),
            **({} if model.attention_bits == 16 else {"attention_bits": model.attention_bits}),
            **({} if intrinsics is None else {"intrinsics": "given"}),
            **({} if given is None else dict.fromkeys(sorted(given.known()), "given")),
            **({"borrowed_lens": lent} if lent else {}),
            **({"scale": "metric"} if answers.metric else {}),
            "source": _source(clip, usable),
        },
    )


def check_request(model: Model, points: str) -> None:
    """Raises InputError if `points` is unknown, or needs a head that the model lacks."""
    if points not in NEEDED_HEADS:
        raise InputError(f"points is {points!r}; choose one of: {', '.join(NEEDED_HEADS)}")
    missing = [head for head in NEEDED_HEADS[points] if head not in model.heads]
    if missing:
        raise InputError(f"points={points!r} needs a model with a {' and a '.join(missing)} head, this one has none")


def _usable(answers: Answers, points: str, extrinsics: Array, intrinsics: Array) -> NDArray[np.bool_]:
    """Which frames have a finite camera that sees something, and a finite depth (or point) somewhere: bool [S]."""
    cameras = np.isfinite(extrinsics).all((1, 2)) & np.array([has_focal(lens) for lens in intrinsics])
    dense = answers.depth if points == "depth" else answers.points
    return cameras & np.isfinite(array_of(dense)).reshape(len(cameras), -1).any(1)


def tell_left_out(names: Sequence[str], count: int) -> None:
    """Warn of these frames, if there are any, of `count`."""
    if names:
        warnings.warn(
            f"left out, because the model's camera or depth is not finite there: {', '.join(names)} "
            f"({len(names)} of {count} frames); {_REMEDY}",
            stacklevel=3,
        )


def tell_borrowed(names: Sequence[str], count: int) -> None:
    """Warn of these frames, if there are any, of `count`."""
    if names:
        warnings.warn(
            f"the model gives no field of view for {', '.join(names)} ({len(names)} of {count} frames): they take the "
            "median focal length of the others, so expect less of them",
            stacklevel=3,
        )


def _known(intrinsics: NDArray[np.float64], clip: Clip) -> Array:
    """Given intrinsics of the user's pictures, in the clip's pixels."""
    sources = frame_mappings(clip.source, len(clip.names))
    if intrinsics.shape != (len(clip.names), 3, 3):
        raise InputError(f"intrinsics must be [{len(clip.names)}, 3, 3], one for each frame, got {intrinsics.shape}")
    if sources:
        intrinsics = np.stack([clip_lens(lens, source) for lens, source in zip(intrinsics, sources, strict=True)])
    return intrinsics.astype(np.float32)


def _source(clip: Clip, usable: NDArray[np.bool_]) -> dict[str, Any]:
    """What the clip was read from, without the frames that were left out."""
    frames = frame_mappings(clip.source, len(clip.names))
    if not frames or usable.all():
        return clip.source
    return {**clip.source, "frames": [frame for frame, kept in zip(frames, usable, strict=True) if kept]}


def _dense(
    answers: Answers, points: str, extrinsics: Array, intrinsics: Array, shown: NDArray[np.bool_]
) -> tuple[Array, Array, Array, Array]:
    """Depth, its confidence, world points and theirs, blank where they say nothing."""
    if answers.depth is not None:
        depth, depth_conf = array_of(answers.depth), array_of(answers.depth_conf)
    if points == "pointmap":
        world, world_conf = array_of(answers.points), array_of(answers.points_conf)
        _blank(world, world_conf, shown & np.isfinite(world).all(-1))
        if answers.depth is None:
            seen = [to_camera(xyz, camera)[..., 2] for xyz, camera in zip(world, extrinsics, strict=True)]
            depth, depth_conf = np.stack(seen).astype(np.float32), world_conf.copy()
            shown = world_conf > 0
    _blank(depth, depth_conf, shown & np.isfinite(depth) & (depth > 0))
    if points == "depth":
        world, world_conf = unproject(depth, extrinsics, intrinsics), depth_conf.copy()
        _blank(world, world_conf, depth > 0)
    return depth, depth_conf, world, world_conf


def _blank(values: Array, confidence: Array, valid: NDArray[np.bool_]) -> None:
    values[~valid] = 0
    confidence[~valid] = 0


def _shown(clip: Clip) -> NDArray[np.bool_]:
    """Where a frame shows its picture, neither transparent nor white padding: bool [S, H, W]."""
    frames, _, height, width = clip.images.shape
    shown = np.ones((frames, height, width), bool)
    for index, mapping in enumerate(frame_mappings(clip.source, frames)):
        rows, columns = covered(mapping, height, width)
        shown[index] = False
        shown[index, rows, columns] = True
    return shown if clip.shown is None else shown & clip.shown.cpu().numpy()
