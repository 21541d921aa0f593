"""Where all chunks lie in one world: a graph of similarities between pairs of them, solved at once."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares
from scipy.sparse import lil_matrix
from scipy.spatial.transform import Rotation

from quantvggt.core.similarity import IDENTITY, Similarity

FREEDOM = 7  # of a similarity: turn, shift, logarithm of the scale
MOST_ROUNDS = 100
Array = NDArray[np.float64]


class Edge(NamedTuple):
    """motion: takes points of chunk `second` into chunk `first`. size: how far points of `second` typically lie from
    its origin, which makes shifts and turns comparable. deviation: of the motion, as a share of that."""

    first: int
    second: int
    motion: Similarity
    size: float
    deviation: float


def chained(edges: Sequence[Edge], count: int) -> list[Similarity]:
    """From each of `count` chunks into the first, along the edges k, k + 1."""
    steps = {edge.first: edge.motion for edge in edges if edge.second == edge.first + 1}
    worlds = [IDENTITY]
    for chunk in range(count - 1):
        worlds.append(worlds[-1].after(steps[chunk]))
    return worlds


def solve(edges: Sequence[Edge], count: int) -> list[Similarity]:
    """From each chunk into the first's world: the chain, or where there are more edges what agrees best with all.

    An edge's residual is what is left of the motion between its chunks when its own is taken off: the turn as a vector
    in radians, the shift in the edge's unit, the logarithm of the scale, all over its deviation, under Huber's loss.
    """
    start = chained(edges, count)
    if len(edges) < count:
        return start
    pattern = lil_matrix((FREEDOM * len(edges), FREEDOM * (count - 1)), dtype=int)
    for row, edge in enumerate(edges):
        for chunk in (edge.first, edge.second):
            if chunk:
                rows, columns = (slice(FREEDOM * place, FREEDOM * (place + 1)) for place in (row, chunk - 1))
                pattern[rows, columns] = 1

    def worlds(x: Array) -> list[Similarity]:
        return [start[0], *(world.after(_small(step)) for world, step in zip(start[1:], x.reshape(-1, 7), strict=True))]

    def residuals(x: Array) -> Array:
        found = worlds(x)
        left = (_numbers(_left(edge, found), edge.size) / edge.deviation for edge in edges)
        return np.concatenate(list(left))

    zeros = np.zeros(FREEDOM * (count - 1))
    solution = least_squares(residuals, zeros, jac_sparsity=pattern.tocsr(), loss="huber", max_nfev=MOST_ROUNDS)
    return worlds(solution.x)


def _left(edge: Edge, worlds: Sequence[Similarity]) -> Similarity:
    between = worlds[edge.first].inverse().after(worlds[edge.second])
    return edge.motion.inverse().after(between)


def _small(x: Array) -> Similarity:
    """A similarity near the identity from its seven numbers."""
    return Similarity(float(np.exp(x[6])), Rotation.from_rotvec(x[:3]).as_matrix(), x[3:6])


def _numbers(motion: Similarity, size: float) -> Array:
    turn = Rotation.from_matrix(motion.rotation).as_rotvec()
    return np.concatenate([turn, motion.translation / size, [np.log(motion.scale)]])
