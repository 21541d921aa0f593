"""The similarity between two chunks, from the points of the frames that both have seen."""

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.errors import QuantVGGTError
from quantvggt.core.similarity import Similarity, umeyama

ROUNDS = 10
HUBER = 1.345
"""Residuals beyond so many standard deviations count less: 95 % efficient where errors are normal (Huber, 1981)."""
MAD_TO_SIGMA = 1.4826

Array = NDArray[np.float64]


def align(source: Array, target: Array, weights: Array) -> Similarity:
    """The similarity between two sets [N, 3] of the same points, N >= 3, with weights [N] >= 0 of which not all are 0.

    Iteratively reweighted least squares: `umeyama` again and again, each point's weight lowered as Huber's loss lowers
    it, with a scale from the median residual of the round before. Raises QuantVGGTError if a set has no extent.
    """
    extent = float(np.median(np.linalg.norm(target - np.median(target, axis=0), axis=1)))
    motion, robust = _least(source, target, weights), weights
    for _ in range(ROUNDS):
        residual = np.linalg.norm(motion.apply(source) - target, axis=1)
        sigma = MAD_TO_SIGMA * float(np.median(residual))
        if sigma <= 1e-12 * extent:
            break
        robust = weights * np.minimum(1.0, HUBER * sigma / np.maximum(residual, 1e-300))
        motion = _least(source, target, robust)
    return motion


def _least(source: Array, target: Array, weights: Array) -> Similarity:
    motion = umeyama(source, target, weights)
    if not motion.scale > 0:
        raise QuantVGGTError("the points of frames that two chunks share have no extent: they can't be aligned")
    return motion
