"""How far a model's outputs have moved from the float model's own, on the same images; no truth needed.

Accuracy hides small changes (an error may by chance shrink); drift shows them, so it tells methods apart.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from quantvggt.evaluate.metrics.depth import match_median, usable
from quantvggt.evaluate.metrics.pose import pose_errors


class Drift(NamedTuple):
    """Median differences: relative rotations and translation directions in degrees, depths as a fraction."""

    rotation_deg: float
    translation_deg: float
    depth: float


def drift(
    extrinsics: Sequence[ArrayLike],
    depths: Sequence[ArrayLike],
    reference_extrinsics: Sequence[ArrayLike],
    reference_depths: Sequence[ArrayLike],
) -> Drift:
    """Drift over clips; each sequence holds one entry per clip: extrinsics [S, 3, 4], depths [S, H, W].

    rotation_deg and translation_deg: median of `pose_errors` against the reference, all clips' pairs pooled, in the
    "quantvggt" form, which the stored drifts have (docs/results.md).
    depth: median over clips of each clip's median |d / d_reference - 1|, after one median scale per clip.
    """
    poses = zip(extrinsics, reference_extrinsics, strict=True)
    pairs = [pose_errors(ours, theirs, "quantvggt") for ours, theirs in poses]
    changes = [depth_change(ours, theirs) for ours, theirs in zip(depths, reference_depths, strict=True)]
    return Drift(
        rotation_deg=float(np.median(np.concatenate([rotation for rotation, _ in pairs]))),
        translation_deg=float(np.median(np.concatenate([direction for _, direction in pairs]))),
        depth=float(np.median(changes)),
    )


def depth_change(depth: ArrayLike, reference: ArrayLike) -> float:
    """Median |d / d_reference - 1| over one clip's pixels with a usable reference, after the median scale."""
    depth, reference = usable(np.asarray(depth, np.float64)), usable(np.asarray(reference, np.float64))
    valid = reference > 0
    reference = reference[valid]
    return float(np.median(np.abs(match_median(depth[valid], reference) / reference - 1)))
