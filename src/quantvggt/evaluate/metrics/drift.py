"""How far a model's outputs have moved from the float model's own, on the same images; no truth needed.

Accuracy hides small changes (an error may by chance shrink); drift shows them, so it tells methods apart.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantvggt.evaluate.metrics.depth import match_median, usable
from quantvggt.evaluate.metrics.pose import pose_errors


class Drift(NamedTuple):
    """Median differences: relative rotations and translation directions in degrees, depths as a fraction."""

    rotation_deg: float
    translation_deg: float
    depth: float


class ClipDrift(NamedTuple):
    """Of one clip: differences of all pairs of frames in degrees, and the median relative change of depth."""

    rotation_deg: list[float]
    direction_deg: list[float]
    depth: float


def drift(
    extrinsics: Sequence[ArrayLike],
    depths: Sequence[ArrayLike],
    reference_extrinsics: Sequence[ArrayLike],
    reference_depths: Sequence[ArrayLike],
) -> Drift:
    """Drift over clips; each sequence holds one entry per clip: extrinsics [S, 3, 4], depths [S, H, W]."""
    return pooled(map(clip_drift, extrinsics, depths, reference_extrinsics, reference_depths))


def pooled(clips: Iterable[ClipDrift]) -> Drift:
    """Medians over all clips' pairs of frames, and over all clips' changes of depth."""
    rotations, directions, changes = zip(*clips, strict=True)
    return Drift(
        rotation_deg=_median(np.concatenate(rotations)),
        translation_deg=_median(np.concatenate(directions)),
        depth=_median(np.asarray(changes)),
    )


def clip_drift(
    extrinsics: ArrayLike, depth: ArrayLike, reference_extrinsics: ArrayLike, reference_depth: ArrayLike
) -> ClipDrift:
    """Pairs are measured by `pose_errors` against the reference in the "quantvggt" form, which the stored drifts have
    (docs/results.md); depth by `depth_change`, after one median scale."""
    rotation, direction = pose_errors(extrinsics, reference_extrinsics, "quantvggt")
    return ClipDrift(rotation.tolist(), direction.tolist(), depth_change(depth, reference_depth))


def _median(values: NDArray[np.float64]) -> float:
    return float(np.median(values))


def depth_change(depth: ArrayLike, reference: ArrayLike) -> float:
    """Median |d / d_reference - 1| over one clip's pixels with a usable reference, after the median scale."""
    depth, reference = usable(np.asarray(depth, np.float64)), usable(np.asarray(reference, np.float64))
    valid = reference > 0
    reference = reference[valid]
    return float(np.median(np.abs(match_median(depth[valid], reference) / reference - 1)))
