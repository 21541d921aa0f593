"""Depth maps: where surfaces end, and values between pixels that keep them apart."""

import numpy as np
from numpy.typing import NDArray

from quantvggt.reconstruction.geometry import Array

EDGE = 0.05
"""Neighbours whose depths differ by more than this share lie on different surfaces."""


def depth_edges(depth: Array, share: float = EDGE) -> NDArray[np.bool_]:
    """Pixels at the rim of a surface, bool like depth [S, H, W].

    A pixel is one if the depth of one of its four neighbours differs from its own by more than `share` of the nearer
    one. Networks smooth over the step there, so what these pixels say lies between the surfaces, on neither. Pixels
    without a depth are none, and make none.
    """
    edges = np.zeros(depth.shape, bool)
    for axis in (-2, -1):
        a, b = _neighbours(depth, axis)
        step = (np.abs(a - b) > share * np.minimum(a, b)) & (a > 0) & (b > 0)
        for side in _neighbours(edges, axis):
            side |= step
    return edges


def sample_depth(depth: Array, xy: NDArray[np.float64], share: float = EDGE) -> NDArray[np.float64]:
    """Depth [H, W] at places xy [N, 2] in pixels (centres at +0.5) inside the frame: float64 [N].

    Bilinear where the four pixels around lie on one surface, else the nearest pixel's; 0 where that has none.
    """
    height, width = depth.shape
    x, y = xy[:, 0] - 0.5, xy[:, 1] - 0.5
    left = np.clip(np.floor(x).astype(np.intp), 0, max(width - 2, 0))
    top = np.clip(np.floor(y).astype(np.intp), 0, max(height - 2, 0))
    right, bottom = np.minimum(left + 1, width - 1), np.minimum(top + 1, height - 1)
    across, down = np.clip(x - left, 0, 1), np.clip(y - top, 0, 1)
    corners = depth[top, left], depth[top, right], depth[bottom, left], depth[bottom, right]
    low = np.minimum(np.minimum(corners[0], corners[1]), np.minimum(corners[2], corners[3]))
    high = np.maximum(np.maximum(corners[0], corners[1]), np.maximum(corners[2], corners[3]))
    upper, lower = (a + (b - a) * across for a, b in (corners[:2], corners[2:]))
    nearest = np.where(down < 0.5, np.where(across < 0.5, *corners[:2]), np.where(across < 0.5, *corners[2:]))
    return np.where((low > 0) & (high - low <= share * low), upper + (lower - upper) * down, nearest)


def _neighbours(values: NDArray, axis: int) -> tuple[NDArray, NDArray]:
    """Views of all but the last and all but the first along an axis."""
    return (values[:, :-1], values[:, 1:]) if axis == -2 else (values[..., :-1], values[..., 1:])
