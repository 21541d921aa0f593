"""How near two point clouds lie to each other: accuracy, completeness, normal consistency, F-score."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from quantvggt.core.errors import InputError
from quantvggt.evaluate.metrics.nearest import nearest

Array = NDArray[np.float64]

NEIGHBOURS = 30
CHUNK = 100_000


class SurfaceErrors(NamedTuple):
    """Of a predicted cloud against the true one; lengths in their unit, means and medians over points.

    acc: distance from a predicted point to the nearest true one; comp: from a true one to the nearest predicted one.
    nc: |cosine| of the angle between the normals of such neighbours, the mean of both directions, 0..1.
    """

    acc_mean: float
    acc_med: float
    comp_mean: float
    comp_med: float
    nc_mean: float
    nc_med: float


def surface_errors(predicted: ArrayLike, truth: ArrayLike) -> SurfaceErrors:
    """Errors of a cloud [N, 3] against the true one [M, 3], both finite and in one frame.

    Raises InputError if one of them is empty.
    """
    predicted, truth = _clouds(predicted, truth)
    trees = cKDTree(predicted), cKDTree(truth)
    to_truth, true_partner = nearest(trees[1], predicted)
    to_predicted, partner = nearest(trees[0], truth)
    turned, true = normals(predicted, trees[0]), normals(truth, trees[1])
    there, back = _agreement(turned, true[true_partner]), _agreement(true, turned[partner])
    return SurfaceErrors(
        *(float(statistic(values)) for values in (to_truth, to_predicted) for statistic in (np.mean, np.median)),
        *(float(statistic(there) + statistic(back)) / 2 for statistic in (np.mean, np.median)),
    )


def normals(points: Array, tree: cKDTree | None = None) -> Array:
    """Unit normals [N, 3] of a cloud, their signs arbitrary.

    The direction in which each point's 30 nearest points (itself among them) spread least, as Open3D's
    `estimate_normals` takes it by default. Where they don't spread at all there is none: a zero.
    """
    tree = cKDTree(points) if tree is None else tree
    found = np.empty_like(points)
    rounding = NEIGHBOURS * (1e-12 * np.abs(points).max()) ** 2
    for start in range(0, len(points), CHUNK):
        part = slice(start, start + CHUNK)
        _, near = nearest(tree, points[part], k=min(NEIGHBOURS, len(points)))
        around = points[near.reshape(len(near), -1)]
        around = around - around.mean(1, keepdims=True)
        spread, directions = np.linalg.eigh(around.swapaxes(1, 2) @ around)
        found[part] = directions[..., 0] * (spread[..., 2:] > rounding)
    return found


class FScore(NamedTuple):
    """precision: share of predicted points nearer than the threshold to a true one; recall: of true points to a
    predicted one (also called completion ratio); fscore: their harmonic mean. All 0..1."""

    precision: float
    recall: float
    fscore: float


def fscore(predicted: ArrayLike, truth: ArrayLike, threshold: float) -> FScore:
    """F-score of a cloud [N, 3] against the true one [M, 3], both finite and in one frame; threshold in their unit.

    Raises InputError if one of them is empty.
    """
    predicted, truth = _clouds(predicted, truth)
    precision = float((nearest(cKDTree(truth), predicted)[0] < threshold).mean())
    recall = float((nearest(cKDTree(predicted), truth)[0] < threshold).mean())
    return FScore(precision, recall, 2 * precision * recall / (precision + recall) if precision + recall else 0.0)


def _clouds(predicted: ArrayLike, truth: ArrayLike) -> tuple[Array, Array]:
    clouds = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if any(cloud.ndim != 2 or cloud.shape[1] != 3 or len(cloud) == 0 for cloud in clouds):
        raise InputError(f"surfaces need two [N, 3] clouds with points, got {clouds[0].shape} and {clouds[1].shape}")
    return clouds


def _agreement(a: Array, b: Array) -> Array:
    return np.asarray(np.abs((a * b).sum(1)))
