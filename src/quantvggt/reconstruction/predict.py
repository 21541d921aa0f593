"""Images to a Scene with a model, quantized or not."""

import numpy as np
import torch
from numpy.typing import NDArray

from quantvggt.core.errors import InputError, QuantVGGTError
from quantvggt.models import Answers, Model
from quantvggt.reconstruction.geometry import to_camera, unproject
from quantvggt.reconstruction.scene import Scene
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.preprocess import covered, frame_mappings

Array = NDArray[np.float32]
NEEDED_HEADS = {"depth": ("camera", "depth"), "pointmap": ("camera", "point")}


def reconstruct(model: Model, clip: Clip, points: str = "depth", model_name: str = "VGGT") -> Scene:
    """Run the model on a clip, where the model lives and in its dtype.

    points: where the world points come from: "depth" unprojects depth with the predicted cameras (the more
    accurate of the two in the VGGT paper, section 4.3), "pointmap" takes the point head's own; a model
    without a depth head then gets its depth from those points. model_name goes into the scene's provenance.
    White padding, transparency and values that aren't finite get depth 0 and confidence 0.
    Raises InputError if `points` is unknown, the model lacks a head, the frames don't fit its patches, or all are
    transparent everywhere;
    QuantVGGTError if the predicted cameras aren't finite.
    """
    if points not in NEEDED_HEADS:
        raise InputError(f"points is {points!r}; choose one of: {', '.join(NEEDED_HEADS)}")
    missing = [head for head in NEEDED_HEADS[points] if head not in model.heads]
    if missing:
        raise InputError(f"points={points!r} needs a model with a {' and a '.join(missing)} head, this one has none")

    shown = _shown(clip)
    if not shown.any():
        raise InputError("all pictures are transparent everywhere; save them without transparency")

    with torch.inference_mode():
        answers = model.answers(clip.images[None].to(model.device))
    extrinsics, intrinsics = _array(answers.extrinsics), _array(answers.intrinsics)
    if not (np.isfinite(extrinsics).all() and np.isfinite(intrinsics).all()):
        raise QuantVGGTError(
            "the model's cameras are not finite (an overflow, or a field of view of zero); "
            "check its weights, and run it in float32 or bfloat16"
        )
    depth, depth_conf, world, world_conf = _dense(answers, points, extrinsics, intrinsics, shown)
    quantization = model.quantization
    return Scene(
        names=list(clip.names),
        images=(clip.images.permute(0, 2, 3, 1) * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy(),
        extrinsics=extrinsics,
        intrinsics=intrinsics,
        depth=depth,
        depth_conf=depth_conf,
        points=world,
        points_conf=world_conf,
        provenance={
            "model": model_name,
            "method": quantization.method if quantization else "float",
            "scheme": quantization.scheme.name if quantization else "float32",
            "points": points,
            "source": clip.source,
        },
    )


def _dense(
    answers: Answers, points: str, extrinsics: Array, intrinsics: Array, shown: NDArray[np.bool_]
) -> tuple[Array, Array, Array, Array]:
    """Depth, its confidence, world points and theirs, blank where they say nothing."""
    if answers.depth is not None:
        depth, depth_conf = _array(answers.depth), _array(answers.depth_conf)
    if points == "pointmap":
        world, world_conf = _array(answers.points), _array(answers.points_conf)
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


def _array(values: torch.Tensor | None) -> Array:
    """Drop the batch of one; a copy, so it may be written to."""
    assert values is not None, "a head that was asked for gives all of its answers"
    return np.array(values[0].float().cpu().numpy())


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
