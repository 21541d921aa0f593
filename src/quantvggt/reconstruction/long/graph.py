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
OUTLIER = 0.25
"""A residual of which little is drift: those far beyond it hardly pull."""
MOST_ROUNDS = 50
Array = NDArray[np.float64]


class Edge(NamedTuple):
    """motion: takes points of node `second` into the world of node `first`. size: how far points of `second` typically
    lie apart, which makes shifts and turns comparable."""

    first: int
    second: int
    motion: Similarity
    size: float


def solve(edges: Sequence[Edge], count: int) -> list[Similarity]:
    """From each of `count` nodes into the world of node 0: along the edges, or where there are more than it takes to
    reach every node, what agrees best with all of them.

    An edge's residual is what is left of the motion between its nodes when its own is taken off: the turn as a vector
    in radians, the shift in the edge's unit, the logarithm of the scale; under Cauchy's loss, all alike: how well
    points agree says little of a motion, whose error is mostly how chunks are bent as a whole.
    Edges come in an order in which each node but the first is reached from those before it.
    """
    start = _spread(edges, count)
    if len(edges) < count:
        return start
    pattern = lil_matrix((FREEDOM * len(edges), FREEDOM * (count - 1)), dtype=int)
    for row, edge in enumerate(edges):
        for node in (edge.first, edge.second):
            if node:
                rows, columns = (slice(FREEDOM * place, FREEDOM * (place + 1)) for place in (row, node - 1))
                pattern[rows, columns] = 1

    def worlds(x: Array) -> list[Similarity]:
        steps = map(_small, x.reshape(-1, FREEDOM))
        return [start[0], *(world.after(step) for world, step in zip(start[1:], steps, strict=True))]

    def residuals(x: Array) -> Array:
        found = worlds(x)
        return np.concatenate([_numbers(_left(edge, found), edge.size) for edge in edges])

    zeros = np.zeros(FREEDOM * (count - 1))
    solution = least_squares(
        residuals, zeros, jac_sparsity=pattern.tocsr(), loss="cauchy", f_scale=OUTLIER, max_nfev=MOST_ROUNDS
    )
    return worlds(solution.x)


def _spread(edges: Sequence[Edge], count: int) -> list[Similarity]:
    worlds = {0: IDENTITY}
    for edge in edges:
        if edge.second not in worlds:
            worlds[edge.second] = worlds[edge.first].after(edge.motion)
        elif edge.first not in worlds:
            worlds[edge.first] = worlds[edge.second].after(edge.motion.inverse())
    return [worlds[node] for node in range(count)]


def _left(edge: Edge, worlds: Sequence[Similarity]) -> Similarity:
    between = worlds[edge.first].inverse().after(worlds[edge.second])
    return edge.motion.inverse().after(between)


def _small(x: Array) -> Similarity:
    """A similarity near the identity from its seven numbers."""
    return Similarity(float(np.exp(x[6])), Rotation.from_rotvec(x[:3]).as_matrix(), x[3:6])


def _numbers(motion: Similarity, size: float) -> Array:
    turn = Rotation.from_matrix(motion.rotation).as_rotvec()
    return np.concatenate([turn, motion.translation / size, [np.log(motion.scale)]])
