"""Bringing one point set onto another: by known matches (Umeyama), or by the nearest points (ICP)."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from quantvggt.core.errors import InputError
from quantvggt.core.similarity import IDENTITY, Similarity, umeyama
from quantvggt.evaluate.metrics.nearest import nearest

Array = NDArray[np.float64]

ICP_ROUNDS, ICP_CHANGE = 30, 1e-6


def match_medians(source: ArrayLike, target: ArrayLike) -> Similarity:
    """The scale and the shift along z that give `source` [N, 3] the medians of `target` [N, 3].

    As CUT3R's point-map evaluation: the shift between the median z; the scale between the median distances from the
    point whose coordinates are the medians. Both sets in the first camera's frame, where z is the depth. A median is
    an element, of an even number the lower of the middle two. A source without extent is scaled by 0.

    Raises InputError if there is no point.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    if len(source) == 0 or len(target) == 0:
        raise InputError("alignment needs points, got none")
    extents = [lower_median(np.linalg.norm(points - lower_median(points), axis=1)) for points in (source, target)]
    scale = float(extents[1] / extents[0]) if extents[0] > 0 else 0.0
    shift = lower_median(target[:, 2]) - scale * lower_median(source[:, 2])
    return Similarity(scale, np.eye(3), np.array([0.0, 0.0, float(shift)]))


def lower_median(values: Array) -> Array:
    """The median along the first axis, as PyTorch takes it: of an even number the lower of the middle two."""
    middle = (len(values) - 1) // 2
    return np.partition(values, middle, axis=0)[middle]


class Registration(NamedTuple):
    """What `icp` found: source -> target, the share of source points with a partner, and their distance (RMSE)."""

    motion: Similarity
    fitness: float
    inlier_rmse: float


def icp(source: ArrayLike, target: ArrayLike, threshold: float) -> Registration:
    """The rigid motion that brings `source` [N, 3] onto `target` [M, 3]: iterated closest points, from where it lies.

    Besl and McKay, "A method for registration of 3-D shapes", 1992: each source point's partner is the nearest target
    point nearer than `threshold`, and the partners' best rigid motion (`umeyama`) is applied, again and again. It ends
    as Open3D's `registration_icp` does, which the published evaluations call: after 30 rounds, or when neither fitness
    nor RMSE changes by 1e-6 or more. Without any partner nothing moves.
    """
    source, target = np.asarray(source, np.float64), np.asarray(target, np.float64)
    tree = cKDTree(target)
    motion = IDENTITY
    near, partner, fitness, rmse = _partners(tree, source, threshold)
    for _ in range(ICP_ROUNDS):
        if not near.any():
            break
        step = umeyama(source[near], target[partner], scaled=False)
        source = step.apply(source)
        motion = step.after(motion)
        before = fitness, rmse
        near, partner, fitness, rmse = _partners(tree, source, threshold)
        if max(abs(before[0] - fitness), abs(before[1] - rmse)) < ICP_CHANGE:
            break
    return Registration(motion, fitness, rmse)


def _partners(
    tree: cKDTree, points: Array, threshold: float
) -> tuple[NDArray[np.bool_], NDArray[np.int64], float, float]:
    """Which points have one, its number, and fitness and RMSE of the match."""
    distance, partner = nearest(tree, points, distance_upper_bound=threshold)
    near = np.isfinite(distance)
    rmse = float(np.sqrt((distance[near] ** 2).mean())) if near.any() else 0.0
    return near, partner[near], float(near.mean()), rmse
