"""The nearest points of a cloud."""

from typing import Any

from scipy.spatial import cKDTree

from quantvggt.core.limits import usable_cpus


def nearest(tree: cKDTree, queries: Any, **settings: Any) -> Any:
    """Distances and numbers of the points of `tree` nearest to `queries` [M, 3], as `cKDTree.query`, on all CPUs."""
    return tree.query(queries, workers=usable_cpus(), **settings)
