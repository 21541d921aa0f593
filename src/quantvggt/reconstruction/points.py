"""From a Scene's pixels to the point cloud that is worth showing."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.errors import InputError

if TYPE_CHECKING:
    from quantvggt.reconstruction.scene import Scene

MIN_CONFIDENCE = 50.0
"""Default percentile: the lower half of the points is dropped."""


@dataclass(frozen=True)
class PointCloud:
    """N points and the pixels they come from.

    xyz: float32 [N, 3], world; rgb: uint8 [N, 3]; frame, row, column: int [N].
    """

    xyz: NDArray[np.float32]
    rgb: NDArray[np.uint8]
    frame: NDArray[np.intp]
    row: NDArray[np.intp]
    column: NDArray[np.intp]

    def __len__(self) -> int:
        return len(self.xyz)


def select_points(
    scene: "Scene", min_confidence: float = MIN_CONFIDENCE, max_points: int | None = None, seed: int = 0
) -> PointCloud:
    """The confident points of a scene, in order of frame, row and column.

    min_confidence: a percentile, 0 to 100; points whose confidence is below it are dropped. Points without a
    confidence above 0 (white padding, no depth) never count. max_points: draw at most that many of the rest,
    evenly at random, the same for the same seed.
    Raises InputError if an argument is out of range or the scene has no point at all.
    """
    if not 0 <= min_confidence <= 100:
        raise InputError(f"min_confidence is {min_confidence}; it is a percentile, so give 0 to 100")
    if max_points is not None and max_points < 1:
        raise InputError(f"max_points is {max_points}; ask for at least 1")
    known = scene.points_conf > 0
    if not known.any():
        raise InputError("the scene has no points: no pixel has a depth; check the images and the model")
    threshold = np.percentile(scene.points_conf[known], min_confidence)
    chosen = np.flatnonzero(known & (scene.points_conf >= threshold))
    if max_points is not None and len(chosen) > max_points:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, max_points, replace=False))
    frame, row, column = np.unravel_index(chosen, scene.points_conf.shape)
    return PointCloud(
        xyz=scene.points[frame, row, column],
        rgb=scene.images[frame, row, column],
        frame=frame,
        row=row,
        column=column,
    )
