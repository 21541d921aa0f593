"""What two chunks have in common: frames that both have seen, and the motion between their worlds that follows."""

import numpy as np

from quantvggt.core.errors import QuantVGGTError
from quantvggt.reconstruction.long.align import Array, align
from quantvggt.reconstruction.long.chunk import Chunk
from quantvggt.reconstruction.long.graph import Edge

SAMPLES = 40_000
"""Pixels that an alignment looks at, at most."""


def shared_frames(first: Chunk, second: Chunk) -> list[int]:
    """The places that both have, ascending: those where each has a lens of its own, all if there is none."""
    return sorted(set(first.own) & set(second.own) or set(first.frames) & set(second.frames))


def edge_between(first: Chunk, second: Chunk, names: tuple[int, int]) -> Edge:
    """From the points of shared frames of which both chunks are surer than of half of them; names: of the two nodes.

    Raises QuantVGGTError if no such points are there, or they lie in one place.
    """
    a, b, weights = _points(first, second)
    if len(a) < 3:
        raise QuantVGGTError("two neighbouring chunks share no frame with points; give more --overlap")
    motion = align(b, a, weights)
    size = float(np.median(np.linalg.norm(b - np.median(b, axis=0), axis=1)))
    return Edge(*names, motion, size)


def _points(first: Chunk, second: Chunk) -> tuple[Array, Array, Array]:
    frames = shared_frames(first, second)
    rows = [[chunk.row(frame) for frame in frames] for chunk in (first, second)]
    pixels = len(frames) * first.depth[0].size
    step = max(1, int(np.ceil((pixels / SAMPLES) ** 0.5)))
    grid = (slice(None), slice(step // 2, None, step), slice(step // 2, None, step))
    (a, sure_a), (b, sure_b) = (
        (chunk.points[row][grid].reshape(-1, 3).astype(np.float64), chunk.points_conf[row][grid].ravel())
        for chunk, row in zip((first, second), rows, strict=True)
    )
    known = (sure_a > 0) & (sure_b > 0)
    a, b, sure_a, sure_b = a[known], b[known], sure_a[known], sure_b[known]
    if not len(a):
        return a, b, sure_a.astype(np.float64)
    kept = (sure_a >= np.median(sure_a)) & (sure_b >= np.median(sure_b))
    kept = kept if kept.any() else np.ones(len(a), bool)
    return a[kept], b[kept], np.sqrt(sure_a[kept].astype(np.float64) * sure_b[kept])
