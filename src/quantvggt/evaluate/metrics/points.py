"""Point-map accuracy, up to the similarity (turn, shift, scale) a reconstruction leaves open."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from quantvggt.core.errors import InputError
from quantvggt.core.similarity import umeyama

Array = NDArray[np.float64]


class PointErrors(NamedTuple):
    """How far a predicted point map is from the truth, relative to the mean viewing distance (0.02 reads as 2 %).

    error: mean distance of each predicted point from its own true point. accuracy: from the true point nearest to
    it, so a point that slid along its surface costs little. completeness: of each true point from the nearest
    predicted one, so a surface that nobody predicted costs much. The last two are DTU's measures of a surface.
    """

    error: float
    accuracy: float
    completeness: float


def point_errors(
    predicted: ArrayLike, truth: ArrayLike, valid: ArrayLike, origin: ArrayLike, queries: int = 1024
) -> PointErrors:
    """Errors of one clip's point map after the best similarity.

    predicted, truth: [S, H, W, 3], each in a world frame of its own; valid: bool [S, H, W], the pixels with a
    true point; origin: [3], the true position of the first camera. One similarity per clip (`umeyama` over
    the valid pixels) is taken out, then distances are divided by the mean distance of the true points from
    `origin`. A predicted point that is not finite counts as the zero point.
    queries: accuracy and completeness are measured at so many points, drawn once and for all from a fixed seed,
    against all points of the other side.

    Raises InputError if the shapes differ or no pixel is valid.
    """
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    valid, origin = np.asarray(valid, bool), np.asarray(origin, np.float64)
    if predicted.shape != truth.shape or valid.shape != truth.shape[:-1]:
        raise InputError(f"point maps differ: {predicted.shape} predicted, {truth.shape} true, {valid.shape} valid")
    if not valid.any():
        raise InputError("no pixel has a true point, so there is nothing to measure")
    target, source = truth[valid], predicted[valid]
    source = np.where(np.isfinite(source).all(1, keepdims=True), source, 0.0)
    source = umeyama(source, target).apply(source)
    asked = np.random.default_rng(0).permutation(len(target))[:queries]
    distances = (
        np.linalg.norm(source - target, axis=1),
        _nearest(target, source[asked]),
        _nearest(source, target[asked]),
    )
    unit = np.linalg.norm(target - origin, axis=1).mean()
    return PointErrors(*(float(distance.mean() / unit) for distance in distances))


def _nearest(points: Array, queries: Array) -> Array:
    """Distance from each query [M, 3] to the nearest of `points` [N, 3]. The tree, used once, is quick to build."""
    distances: Array = cKDTree(points, balanced_tree=False, compact_nodes=False).query(queries)[0]
    return distances
