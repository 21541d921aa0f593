"""Groups of clips, and an even draw from them: the diversity half of NFDS (arXiv 2509.21302)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.errors import InputError

Indices = NDArray[np.int64]

RESTARTS = 50
_KMEANS_SEED = 0  # clusters belong to the pool; only the draw from them follows the caller's seed


def kmeans(vectors: NDArray[np.float64], clusters: int) -> Indices:
    """The cluster of each vector: [n, d] -> int64 [n], from 0. The best of 50 starts; always the same answer.

    With fewer distinct vectors than `clusters` there are as many clusters as vectors.
    Raises InputError if `clusters` is below 1.
    """
    from sklearn.cluster import KMeans

    if clusters < 1:
        raise InputError(f"clusters is {clusters}; ask for at least 1")
    count = min(clusters, len(np.unique(vectors, axis=0)))
    found = KMeans(count, n_init=RESTARTS, random_state=_KMEANS_SEED).fit_predict(vectors)
    return found.astype(np.int64)


def groups_of(labels: Sequence[str]) -> Indices:
    """Labels numbered in alphabetical order: int64 [n]."""
    return np.unique(np.asarray(labels), return_inverse=True)[1].astype(np.int64)


def draw_evenly(groups: Indices, size: int, rng: np.random.Generator) -> Indices:
    """`size` distinct positions in `groups`, ascending: equally many of each group, uniformly drawn inside it.

    What doesn't divide goes one each to groups drawn at random; where a group has too few, the rest is drawn
    uniformly from what is left of all the others. Raises InputError if there are fewer than `size` positions.
    """
    if size > len(groups):
        raise InputError(f"{size} clips were asked for, but there are {len(groups)} to draw from")
    names = rng.permutation(np.unique(groups))
    share, remainder = divmod(size, len(names))
    chosen: list[int] = []
    for position, name in enumerate(names):
        members = np.flatnonzero(groups == name)
        quota = min(len(members), share + (position < remainder))
        chosen += rng.choice(members, quota, replace=False).tolist()
    rest = np.setdiff1d(np.arange(len(groups)), chosen)
    chosen += rng.choice(rest, size - len(chosen), replace=False).tolist()
    return np.sort(np.asarray(chosen, dtype=np.int64))
