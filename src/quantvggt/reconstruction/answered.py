"""The cameras that a model's answers hold, and what stands in where its camera head says nothing of use."""

import warnings
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from quantvggt.models import Answers
from quantvggt.reconstruction.geometry import to_camera
from quantvggt.reconstruction.resection import pose_from_depth, resect

Array = NDArray[np.float32]


class Cameras(NamedTuple):
    """extrinsics [S, 3, 4], intrinsics [S, 3, 3], in either of which may be what isn't finite; borrowed: bool [S],
    which intrinsics are those of other frames."""

    extrinsics: Array
    intrinsics: Array
    borrowed: NDArray[np.bool_]


def cameras_of(answers: Answers, spare: Array | None = None, borrow: bool = True) -> Cameras:
    """Of the frames in `answers`, which have extrinsics and intrinsics.

    If the camera head gives no field of view in any frame, cameras are those that the point head's points imply, with a
    warning. A frame that has none (zero or not a number), but a finite pose, borrows the median intrinsics of those
    that have one, or `spare` [3, 3] if none has. Where such a camera would have the points of its own picture behind
    it, its pose is the one that these points and its depth imply. borrow: if not, such frames stay as they are.
    """
    extrinsics, lenses = array_of(answers.extrinsics), array_of(answers.intrinsics)
    posed = np.isfinite(extrinsics).all((1, 2))
    blind = posed.all() and not any(has_focal(lens) for lens in lenses)
    if blind and answers.points is not None:
        _from_points(answers, extrinsics, lenses)
    own = np.array([has_focal(lens) for lens in lenses])
    lens = np.median(lenses[own], axis=0) if own.any() else spare
    borrowed = np.zeros(len(own), bool)
    if lens is None or not borrow:
        return Cameras(extrinsics, lenses, borrowed)
    for frame in np.flatnonzero(posed & ~own).tolist():
        pose = _pose(answers, frame, extrinsics[frame], lens)
        if pose is not None:
            extrinsics[frame], lenses[frame], borrowed[frame] = pose, lens, True
    return Cameras(extrinsics, lenses, borrowed)


def has_focal(lens: Array) -> bool:
    return bool(np.isfinite(lens).all() and lens[0, 0] > 0 and lens[1, 1] > 0)


def array_of(values: torch.Tensor | None) -> Array:
    """Drop the batch of one; a copy, so it may be written to."""
    assert values is not None, "a head that was asked for gives all of its answers"
    return np.array(values[0].float().cpu().numpy())


def _of(values: torch.Tensor | None, frame: int) -> Array:
    return array_of(None if values is None else values[:, frame])


def _from_points(answers: Answers, extrinsics: Array, lenses: Array) -> None:
    """Overwrite the cameras of the frames whose points imply one."""
    found = [resect(*frame) for frame in zip(array_of(answers.points), array_of(answers.points_conf), strict=True)]
    if any(camera is not None for camera in found):
        warnings.warn(
            "the model's camera head sees nothing (a field of view of zero); cameras are taken from its points "
            "instead, so expect little of them: check the model's weights",
            stacklevel=4,
        )
    height, width = answers.size
    for frame, camera in enumerate(found):
        if camera is not None:
            pose, focal = camera
            extrinsics[frame] = pose
            lenses[frame] = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def _pose(answers: Answers, frame: int, own: Array, lens: Array) -> NDArray[np.floating] | None:
    """A frame's own pose if most of its picture's points lie before it, or there are none to tell by; else the one they
    imply, None if they don't."""
    if answers.points is None:
        return own
    points = _of(answers.points, frame)
    known = np.isfinite(points).all(-1)
    if not known.any() or np.median(to_camera(points[known], own)[:, 2]) > 0:
        return own
    if answers.depth is None:
        return None
    return pose_from_depth(points, _of(answers.points_conf, frame), _of(answers.depth, frame), lens)
