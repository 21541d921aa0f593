"""Depth accuracy, after what each benchmark leaves open: one scale, or one scale and one shift."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantvggt.core.errors import InputError
from quantvggt.evaluate.metrics.alignment import lower_median

Array = NDArray[np.float64]
DepthAlignment = Literal["none", "median", "lower-median", "l1", "adam", "least-squares"]

LEAST = 1e-5
"""A predicted depth counts as no less in the logarithm, so that 0 has one."""


class DepthErrors(NamedTuple):
    """Of predicted depths d against true ones t, in their unit, over `pixels` pixels.

    absrel: mean |d - t| / t; sqrel: mean (d - t)^2 / t; rmse: root of the mean (d - t)^2; log_rmse: root of the mean
    (ln d - ln t)^2; delta1: share of pixels with max(d / t, t / d) < 1.25.
    """

    absrel: float
    sqrel: float
    rmse: float
    log_rmse: float
    delta1: float
    pixels: int


def depth_errors(
    predicted: ArrayLike,
    truth: ArrayLike,
    valid: ArrayLike | None = None,
    alignment: DepthAlignment = "median",
    clip: float | None = None,
) -> DepthErrors:
    """Errors of one clip's depth maps [S, H, W] over the valid pixels, by default those whose true depth is above 0.

    The prediction is first brought to the truth by one scale (and shift) per clip, taken over the valid pixels of all
    frames together: frames must agree, as in a reconstruction they must.

    - "median": median(truth) / median(prediction); "lower-median": the same with PyTorch's median, an element.
    - "l1": the scale of least absolute error, by 10 rounds of reweighted least squares from the ratio of means.
    - "adam": scale and shift as published for "scale & shift": Adam (rate 1e-4) on the summed absolute error, from
      the lower-median scale, until the sum changes by less than 1e-6, at most 1000 steps. They move by about 0.1 at
      most, so this isn't the best scale and shift.
    - "least-squares": the scale and shift of least squared error. "none": nothing, for metric depth.

    clip: aligned predictions are cut to no more than this, as the truth was. A predicted depth that is not finite or
    not positive counts as 0, before the alignment and after it: an error of 100 %.

    Raises InputError if the shapes differ or no pixel is valid.
    """
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if predicted.shape != truth.shape:
        raise InputError(f"depth maps differ in shape: predicted {predicted.shape}, true {truth.shape}")
    valid = (truth > 0) if valid is None else np.asarray(valid, bool) & (truth > 0)
    if not valid.any():
        raise InputError("the true depth has no pixel above 0, so there is nothing to measure")
    predicted, truth = usable(predicted[valid]), truth[valid]
    scale, shift = _ALIGNMENTS[alignment](predicted, truth)
    aligned = usable(scale * predicted + shift)
    if clip is not None:
        aligned = np.minimum(aligned, clip)
    ratio = aligned / truth
    within = (ratio > 1 / 1.25) & (ratio < 1.25)
    log_error = np.log(np.maximum(aligned, LEAST)) - np.log(truth)
    return DepthErrors(
        absrel=float(np.abs(ratio - 1).mean()),
        sqrel=float(((aligned - truth) ** 2 / truth).mean()),
        rmse=float(np.sqrt(((aligned - truth) ** 2).mean())),
        log_rmse=float(np.sqrt((log_error**2).mean())),
        delta1=float(within.mean()),
        pixels=len(truth),
    )


def match_median(depth: Array, reference: Array) -> Array:
    """`depth` times the factor that gives it the median of `reference`."""
    return depth * _median(depth, reference)[0]


def usable(depth: Array) -> Array:
    """`depth` with 0 in place of values no depth can have: negative, infinite, not a number."""
    return np.where(np.isfinite(depth) & (depth > 0), depth, 0.0)


def _median(depth: Array, truth: Array) -> tuple[float, float]:
    return float(np.median(truth)) / max(float(np.median(depth)), np.finfo(np.float64).tiny), 0.0


def _lower_median(depth: Array, truth: Array) -> tuple[float, float]:
    return float(lower_median(truth)) / max(float(lower_median(depth)), np.finfo(np.float64).tiny), 0.0


def _l1(depth: Array, truth: Array) -> tuple[float, float]:
    """Ten rounds don't converge: the published float32 may differ in the fifth digit."""
    if not depth.any():
        return 0.0, 0.0
    scale = float(truth.mean() / depth.mean())
    for _ in range(10):
        weight = 1 / (np.abs(scale * depth - truth) + 1e-8)
        scale = float((weight * depth * truth).sum() / (weight * depth**2).sum())
    return max(scale, 1e-3), 0.0


def _adam(depth: Array, truth: Array) -> tuple[float, float]:
    """Kingma and Ba, "Adam: a method for stochastic optimization", 2015, algorithm 1, on sum |scale d + shift - t|."""
    found = np.array(_lower_median(depth, truth))
    mean, square, before = np.zeros(2), np.zeros(2), np.inf
    for step in range(1, 1001):
        residual = found[0] * depth + found[1] - truth
        sign, loss = np.sign(residual), float(np.abs(residual).sum())
        gradient = np.array([(sign * depth).sum(), sign.sum()])
        mean, square = 0.9 * mean + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        found = found - 1e-4 * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)
        if abs(before - loss) < 1e-6:
            break
        before = loss
    return float(found[0]), float(found[1])


def _least_squares(depth: Array, truth: Array) -> tuple[float, float]:
    scale, shift = np.linalg.lstsq(np.stack([depth, np.ones_like(depth)], 1), truth, rcond=None)[0]
    return float(scale), float(shift)


_ALIGNMENTS: dict[DepthAlignment, Callable[[Array, Array], tuple[float, float]]] = {
    "none": lambda depth, truth: (1.0, 0.0),
    "median": _median,
    "lower-median": _lower_median,
    "l1": _l1,
    "adam": _adam,
    "least-squares": _least_squares,
}
