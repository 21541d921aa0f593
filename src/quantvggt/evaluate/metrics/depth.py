"""Depth accuracy, up to the one scale a clip leaves open."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantvggt.core.errors import InputError


class DepthError(NamedTuple):
    """absrel: mean |d - d_true| / d_true; delta1: share of pixels with max(d / d_true, d_true / d) < 1.25."""

    absrel: float
    delta1: float


def depth_error(predicted: ArrayLike, truth: ArrayLike) -> DepthError:
    """Errors of one clip's depth maps [S, H, W] over all pixels whose true depth is above 0.

    The prediction is first multiplied by one factor per clip, median(truth) / median(prediction), taken over
    the valid pixels of all frames together: frames must agree on the scale, as in a reconstruction they must.
    A predicted depth that is not finite or not positive counts as 0, an error of 100 %.

    Raises InputError if the shapes differ or no pixel has a true depth.
    """
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if predicted.shape != truth.shape:
        raise InputError(f"depth maps differ in shape: predicted {predicted.shape}, true {truth.shape}")
    valid = truth > 0
    if not valid.any():
        raise InputError("the true depth has no pixel above 0, so there is nothing to measure")
    truth = truth[valid]
    aligned = match_median(usable(predicted[valid]), truth)
    ratio = aligned / truth
    within = (ratio > 1 / 1.25) & (ratio < 1.25)
    return DepthError(absrel=float(np.abs(ratio - 1).mean()), delta1=float(within.mean()))


def match_median(depth: NDArray[np.float64], reference: NDArray[np.float64]) -> NDArray[np.float64]:
    """`depth` times the factor that gives it the median of `reference`."""
    return depth * (np.median(reference) / max(float(np.median(depth)), np.finfo(np.float64).tiny))


def usable(depth: NDArray[np.float64]) -> NDArray[np.float64]:
    """`depth` with 0 in place of values no depth can have: negative, infinite, not a number."""
    return np.where(np.isfinite(depth) & (depth > 0), depth, 0.0)
