"""Lengths in a scene: two points picked with the mouse, and the scale that one known length gives."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantvggt.core.errors import InputError

REACH = 0.006
"""Radians between the mouse's ray and a point that it means: 5 pixels in a window 900 high that sees 60 degrees."""
SURFACE = 0.02
"""Points so much farther than the nearest one under the mouse still belong to what is in front."""


def pick(xyz: NDArray[np.float32], origin: ArrayLike, direction: ArrayLike, reach: float = REACH) -> int | None:
    """Which of the points [N, 3] a ray means: of those in front, the one nearest to the ray; None: there is none."""
    ray = np.asarray(direction, np.float64)
    seen = xyz.astype(np.float64) - np.asarray(origin, np.float64)
    along = seen @ (ray / np.linalg.norm(ray))
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.sqrt(np.maximum((seen**2).sum(1) - along**2, 0)) / along
    under = np.flatnonzero((along > 0) & (slope <= np.tan(reach)))
    if not under.size:
        return None
    front = under[along[under] <= along[under].min() * (1 + SURFACE)]
    return int(front[np.argmin(slope[front])])


class Ruler:
    """Up to two points, in the scene's unit; a third one starts anew."""

    def __init__(self) -> None:
        self.points: list[NDArray[np.float64]] = []

    def add(self, point: ArrayLike) -> None:
        """One more point [3]."""
        self.points = [*(self.points if len(self.points) < 2 else []), np.asarray(point, np.float64)]

    def clear(self) -> None:
        """No point is picked."""
        self.points = []

    @property
    def length(self) -> float | None:
        """Between the two points, None before there are two."""
        return float(np.linalg.norm(self.points[0] - self.points[1])) if len(self.points) == 2 else None

    def scale(self, known: float) -> float:
        """What all lengths are multiplied by for this one to become `known`.

        Raises InputError unless two points apart are picked and `known` is a positive number.
        """
        if not self.length:
            raise InputError("pick two points that are apart first: measure, then click on both")
        if not 0 < known < np.inf:
            raise InputError(f"a length of {known} sets no scale; give a number above 0")
        return known / self.length
