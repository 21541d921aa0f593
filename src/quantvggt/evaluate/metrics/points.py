"""Point-map accuracy, up to the similarity (turn, shift, scale) a reconstruction leaves open."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from quantvggt.core.errors import InputError

Array = NDArray[np.float64]


class Similarity(NamedTuple):
    """x -> scale * rotation @ x + translation."""

    scale: float
    rotation: Array
    translation: Array

    def apply(self, points: Array) -> Array:
        """Move points [N, 3]."""
        return self.scale * points @ self.rotation.T + self.translation


def umeyama(source: ArrayLike, target: ArrayLike, weights: ArrayLike | None = None) -> Similarity:
    """The similarity that brings `source` [N, 3] nearest to `target` [N, 3] in (weighted) least squares.

    Umeyama, "Least-squares estimation of transformation parameters between two point patterns", 1991,
    eqs. 40-42; the rotation is always proper, also where a mirror image would fit better.
    weights: [N], not negative, not all 0. A source without extent (all points equal) gets scale 0, so it
    lands on the target's mean.

    Raises InputError if the shapes differ, there is no point, or the weights are unusable.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if source.shape != target.shape or source.ndim != 2 or source.shape[1] != 3 or len(source) == 0:
        raise InputError(f"alignment needs two [N, 3] sets of one size, got {source.shape} and {target.shape}")
    weight = np.ones(len(source)) if weights is None else np.asarray(weights, np.float64)
    if weight.shape != (len(source),) or not (weight >= 0).all() or not 0 < weight.sum() < np.inf:
        raise InputError("alignment weights must be one finite number >= 0 per point, and not all 0")
    weight = weight / weight.sum()

    source_mean, target_mean = weight @ source, weight @ target
    centred = source - source_mean
    u, singular, vt = np.linalg.svd((target - target_mean).T @ (centred * weight[:, None]))
    proper = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * proper) @ vt
    variance = float(weight @ (centred**2).sum(1))
    scale = float(singular @ proper) / variance if variance > 0 else 0.0
    return Similarity(scale, rotation, target_mean - scale * rotation @ source_mean)


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
