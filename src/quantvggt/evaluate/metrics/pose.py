"""Camera accuracy over all pairs of frames: errors of relative poses, and the area under their curve.

Published scripts don't agree on what the relative pose of frames i < j is; with E the world-to-camera matrix:

- "vggt": E_i E_j^-1, from camera j to camera i. VGGT's own evaluation, and that of MapAnything, which writes it with
  camera-to-world matrices.
- "pi3": E_j E_i^-1, its inverse, as in Pi3's evaluation: the same rotation errors, directions seen from camera j.
- "quantvggt": E_i^-1 E_j, with E seen from the first camera, as in the evaluation published with QuantVGGT (and in an
  earlier one of VGGT). No relative pose of the two cameras: an error of the first camera's pose is in every pair.

A world moved, turned or scaled as a whole changes none of them.
"""

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantvggt.core.errors import InputError

Array = NDArray[np.float64]
Relpose = Literal["vggt", "quantvggt", "pi3"]

AUC_THRESHOLDS = (30, 15, 5, 3)
WORST_ROTATION, WORST_DIRECTION = 180.0, 90.0


def pose_errors(predicted: ArrayLike, truth: ArrayLike, relpose: Relpose = "vggt") -> tuple[Array, Array]:
    """Rotation error and translation-direction error of each frame pair (i < j, row by row), in degrees.

    predicted, truth: world-to-camera [S, 3, 4], S >= 2. Returns two float64 [S * (S - 1) / 2]. The rotation
    error lies in 0..180. The direction error lies in 0..90: the smaller of the angle and its supplement, and
    90 where a translation has no length, so no direction. A pose that is not finite counts as the worst.

    Raises InputError if the sequences differ in length, have fewer than two frames, or the form is unknown.
    """
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if predicted.shape != truth.shape or truth.shape[1:] != (3, 4) or len(truth) < 2:
        raise InputError(
            f"pose errors need two [S, 3, 4] sequences, equal S >= 2, got {predicted.shape} and {truth.shape}"
        )
    if relpose not in get_args(Relpose):
        raise InputError(f"unknown form of the relative pose {relpose!r}; use one of: {', '.join(get_args(Relpose))}")
    with np.errstate(invalid="ignore"):
        rotation_a, translation_a = _relative(predicted, relpose)
        rotation_b, translation_b = _relative(truth, relpose)
        rotation = rotation_angle(rotation_a, rotation_b)
        direction = direction_angle(translation_a, translation_b)
    finite = np.isfinite(rotation_a).all((1, 2)) & np.isfinite(translation_a).all(1)
    return np.where(finite, rotation, WORST_ROTATION), np.where(finite, direction, WORST_DIRECTION)


def rotation_angle(a: Array, b: Array) -> Array:
    """Angle of a^T b in degrees, for rotation matrices [.., 3, 3].

    From sine and cosine together, so it is as exact at 0 and 180 degrees as between.
    """
    r = np.swapaxes(a, -1, -2) @ b
    x, y, z = r[..., 2, 1] - r[..., 1, 2], r[..., 0, 2] - r[..., 2, 0], r[..., 1, 0] - r[..., 0, 1]
    skew = np.stack([x, y, z], -1)
    return np.degrees(np.arctan2(np.linalg.norm(skew, axis=-1), np.trace(r, axis1=-2, axis2=-1) - 1))


def direction_angle(a: Array, b: Array) -> Array:
    """Angle between the lines along a and b [.., 3] in degrees, 0..90; 90 where one of them has no length."""
    across, along = np.linalg.norm(np.cross(a, b), axis=-1), np.abs((a * b).sum(-1))
    directed = (np.linalg.norm(a, axis=-1) > 0) & (np.linalg.norm(b, axis=-1) > 0)
    return np.where(directed, np.degrees(np.arctan2(across, along)), WORST_DIRECTION)


def auc(rotation: ArrayLike, direction: ArrayLike, threshold: int) -> float:
    """Area under the accuracy curve up to `threshold` degrees, 0..1, all pairs pooled.

    A pair's error is the larger of its two. The curve is the share of pairs within 1, 2, .. `threshold`
    degrees; the area is its mean (the published 1-degree histogram form, whose last bin includes the threshold).
    """
    error = np.maximum(np.asarray(rotation, np.float64), np.asarray(direction, np.float64))
    counts, _ = np.histogram(error, bins=np.arange(threshold + 1))
    return float(np.cumsum(counts).mean() / error.size)


def _relative(extrinsics: Array, relpose: Relpose) -> tuple[Array, Array]:
    """Rotations [P, 3, 3] and translations [P, 3] of the relative poses."""
    rotation, translation = extrinsics[:, :, :3], extrinsics[:, :, 3]
    if relpose == "quantvggt":
        rotation = rotation @ rotation[0].T
        translation = translation - rotation @ translation[0]
    i, j = np.triu_indices(len(extrinsics), k=1)
    if relpose == "quantvggt":
        back = np.swapaxes(rotation[i], -1, -2)
        return back @ rotation[j], (back @ (translation[j] - translation[i])[..., None])[..., 0]
    to, start = (i, j) if relpose == "vggt" else (j, i)
    turn = rotation[to] @ np.swapaxes(rotation[start], -1, -2)
    return turn, translation[to] - (turn @ translation[start][..., None])[..., 0]
