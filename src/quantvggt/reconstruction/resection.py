"""The camera that a point map implies: which pinhole sees every pixel's point in that pixel, or where one of known lens
and depth stands.

For models whose camera head fails where their point head doesn't.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from quantvggt.core.similarity import umeyama
from quantvggt.reconstruction.geometry import unproject

Array = NDArray[np.float32] | NDArray[np.float64]

POINTS = 400
"""Looked at, evenly among the surer half."""


def resect(points: Array, confidence: Array) -> tuple[NDArray[np.float64], float] | None:
    """Points [H, W, 3] in the world -> world-to-camera [3, 4] and a focal length in pixels; None if there is none.

    Pixels are square, the principal point is in the middle. A direct linear transform (Hartley and Zisserman, section
    7.1) starts, then robust least squares of the distances in the image.
    """
    height, width = confidence.shape
    valid = np.isfinite(points).all(-1) & np.isfinite(confidence)
    if valid.sum() < 12:
        return None
    rows, columns = np.nonzero(valid & (confidence >= np.median(confidence[valid])))
    some = np.linspace(0, len(rows) - 1, min(POINTS, len(rows))).round().astype(int)
    rows, columns = rows[some], columns[some]
    world = points[rows, columns].astype(np.float64)
    unit = max(height, width)
    pixels = (np.stack([columns, rows], -1) + 0.5 - np.array([width, height]) / 2) / unit

    start = _linear(world, pixels)
    if start is None:
        return None

    def errors(camera: NDArray[np.float64]) -> NDArray[np.float64]:
        seen = Rotation.from_rotvec(camera[:3]).apply(world) + camera[3:6]
        projected = np.exp(camera[6]) * seen[:, :2] / np.maximum(seen[:, 2:], 1e-6)
        return np.asarray((projected - pixels).ravel())

    found = least_squares(errors, start, loss="soft_l1", f_scale=0.01, max_nfev=60)
    rotation = Rotation.from_rotvec(found.x[:3]).as_matrix()
    camera, focal = np.column_stack([rotation, found.x[3:6]]), float(np.exp(found.x[6])) * unit
    in_front = (world @ rotation.T + found.x[3:6])[:, 2] > 0
    if not (np.isfinite(camera).all() and np.isfinite(focal) and in_front.mean() > 0.9):
        return None
    return camera, focal


def pose_from_depth(points: Array, confidence: Array, depth: Array, lens: Array) -> NDArray[np.float64] | None:
    """Points [H, W, 3] in the world, the depth of the same pixels [H, W] and a lens [3, 3] -> world-to-camera [3, 4];
    None if they imply none.

    Of the pixels whose points are surer than half, by least squares: the similarity between the points and what depth
    has in the camera's frame. Its scale, what depth's unit is in the world's, moves no point in the picture.
    """
    known = np.isfinite(points).all(-1) & np.isfinite(confidence) & np.isfinite(depth) & (depth > 0)
    if known.sum() < 3:
        return None
    known &= confidence >= np.median(confidence[known])
    seen = unproject(np.where(known, depth, 0)[None], np.eye(3, 4)[None], lens[None])[0]
    found = umeyama(points[known], seen[known])
    if not found.scale > 0:
        return None
    return np.column_stack([found.rotation, found.translation / found.scale])


def _linear(world: NDArray[np.float64], pixels: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Rotation vector, translation and logarithm of the focal length of the projection that fits best algebraically."""
    middle, size = world.mean(0), max(float(world.std()), 1e-9)
    points = np.column_stack([(world - middle) / size, np.ones(len(world))])
    zero = np.zeros_like(points)
    across = np.hstack([points, zero, -pixels[:, :1] * points])
    down = np.hstack([zero, points, -pixels[:, 1:] * points])
    projection = np.linalg.svd(np.vstack([across, down]), full_matrices=False)[2][-1].reshape(3, 4)
    projection = projection @ np.vstack([np.column_stack([np.eye(3) / size, -middle / size]), [0, 0, 0, 1]])
    length = np.linalg.norm(projection[2, :3])
    if not length > 0:
        return None
    projection /= length
    if np.median(np.column_stack([world, np.ones(len(world))]) @ projection[2]) < 0:
        projection = -projection
    focal = float(np.median(np.linalg.norm(projection[:2, :3], axis=1)))
    u, _, vt = np.linalg.svd(projection[:, :3] / [[focal], [focal], [1]])
    if np.linalg.det(u @ vt) < 0:
        return None
    translation = projection[:, 3] / [focal, focal, 1]
    return np.concatenate([Rotation.from_matrix(u @ vt).as_rotvec(), translation, [np.log(focal)]])
