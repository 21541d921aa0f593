"""The points that a live viewer may show, and which of them it shows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.points import PointCloud, select_points
from quantvggt.reconstruction.scene import Scene

MAX_POINTS = 1_000_000


@dataclass(frozen=True)
class Cloud:
    """N points of a scene with what they are filtered by.

    points: where they are and which pixels they come from. confidence: float32 [N]. thresholds: float32 [101], the
    scene's percentiles of confidence, 0 to 100, over all its points, also those that were not drawn.
    """

    points: PointCloud
    confidence: NDArray[np.float32]
    thresholds: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.points)

    def shown(self, percentile: int, first: int, last: int) -> NDArray[np.bool_]:
        """bool [N]: as confident as `select_points` asks for, and of the frames first to last, both counted."""
        frame = self.points.frame
        return (self.confidence >= self.thresholds[percentile]) & (frame >= first) & (frame <= last)

    def per_pixel(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The points' own values [N] of what every pixel has [S, H, W]."""
        return values[self.points.frame, self.points.row, self.points.column]


def make_cloud(scene: Scene, max_points: int = MAX_POINTS) -> Cloud:
    """All points of the scene, or `max_points` of them, drawn evenly at random.

    Raises InputError as `select_points` does, and if no point is finite.
    """
    points = select_points(scene, 0, max_points)
    finite = np.flatnonzero(np.isfinite(points.xyz).all(1))
    if not finite.size:
        raise InputError("the scene has no points: none is finite; run `reconstruct` again")
    points = points.take(finite)
    confidence = scene.points_conf[points.frame, points.row, points.column]
    thresholds = np.percentile(scene.points_conf[scene.points_conf > 0], np.arange(101))
    return Cloud(points, confidence, thresholds)
