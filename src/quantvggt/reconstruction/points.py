"""From a Scene's pixels to the point cloud that is worth showing."""

from collections.abc import Sequence
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
class Tracks:
    """M observations: which frame sees which point, and where.

    point, frame: int [M], in order of points; xy: float64 [M, 2], pixels of the scene's frames, centres at +0.5.
    """

    point: NDArray[np.intp]
    frame: NDArray[np.intp]
    xy: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.point)


@dataclass(frozen=True)
class PointCloud:
    """N points and the pixels they come from.

    xyz: float32 [N, 3], world; rgb: uint8 [N, 3]; frame, row, column: int [N].
    fused: where other frames see the points too, if that was asked (`fuse`); None: each is seen in its own pixel.
    """

    xyz: NDArray[np.float32]
    rgb: NDArray[np.uint8]
    frame: NDArray[np.intp]
    row: NDArray[np.intp]
    column: NDArray[np.intp]
    fused: Tracks | None = None

    def __len__(self) -> int:
        return len(self.xyz)

    @property
    def tracks(self) -> Tracks:
        """Every observation of every point; one each, its own pixel, unless the points were fused."""
        if self.fused is not None:
            return self.fused
        return Tracks(np.arange(len(self)), self.frame, self.pixels)

    @property
    def pixels(self) -> NDArray[np.float64]:
        """The centres (x, y) of the pixels that the points come from [N, 2]."""
        return np.stack([self.column, self.row], axis=-1).astype(np.float64) + 0.5

    def take(self, chosen: NDArray[np.intp]) -> "PointCloud":
        """These points only, in this ascending order, with their observations."""
        fused = None
        if self.fused is not None:
            new = np.full(len(self), -1)
            new[chosen] = np.arange(len(chosen))
            kept = new[self.fused.point] >= 0
            fused = Tracks(new[self.fused.point[kept]], self.fused.frame[kept], self.fused.xy[kept])
        return PointCloud(
            self.xyz[chosen], self.rgb[chosen], self.frame[chosen], self.row[chosen], self.column[chosen], fused
        )


def joined(clouds: Sequence[PointCloud]) -> PointCloud:
    """Fused clouds as one, one after the other."""
    firsts = np.cumsum([0] + [len(cloud) for cloud in clouds[:-1]])
    tracks = [cloud.tracks for cloud in clouds]
    fused = Tracks(
        np.concatenate([part.point + first for part, first in zip(tracks, firsts, strict=True)]),
        np.concatenate([part.frame for part in tracks]),
        np.concatenate([part.xy for part in tracks]),
    )
    return PointCloud(
        np.concatenate([cloud.xyz for cloud in clouds]),
        np.concatenate([cloud.rgb for cloud in clouds]),
        np.concatenate([cloud.frame for cloud in clouds]),
        np.concatenate([cloud.row for cloud in clouds]),
        np.concatenate([cloud.column for cloud in clouds]),
        fused,
    )


def select_points(
    scene: "Scene", min_confidence: float = MIN_CONFIDENCE, max_points: int | None = None, seed: int = 0
) -> PointCloud:
    """The confident points of a scene, one for each pixel, in order of frame, row and column.

    min_confidence: a percentile, 0 to 100; points whose confidence is below it are dropped. Points without a
    confidence above 0 (white padding, no depth) never count. max_points: draw at most that many of the rest,
    evenly at random, the same for the same seed.
    Raises InputError if an argument is out of range or the scene has no point at all.
    """
    check_selection(min_confidence, max_points)
    known = scene.points_conf > 0
    if not known.any():
        raise InputError("the scene has no points: no pixel has a depth; check the images and the model")
    threshold = np.percentile(scene.points_conf[known], min_confidence)
    return draw(_at(scene, known & (scene.points_conf >= threshold)), max_points, seed)


def draw(cloud: PointCloud, max_points: int | None, seed: int) -> PointCloud:
    """At most so many of the points, evenly at random, in their order; the same for the same seed."""
    if max_points is None or len(cloud) <= max_points:
        return cloud
    return cloud.take(np.sort(np.random.default_rng(seed).choice(len(cloud), max_points, replace=False)))


def check_selection(min_confidence: float, max_points: int | None) -> None:
    """Raises InputError unless the first is a percentile, and the second None or positive."""
    if not 0 <= min_confidence <= 100:
        raise InputError(f"min_confidence is {min_confidence}; it is a percentile, so give 0 to 100")
    if max_points is not None and max_points < 1:
        raise InputError(f"max_points is {max_points}; ask for at least 1")


def _at(scene: "Scene", chosen: NDArray[np.bool_]) -> PointCloud:
    frame, row, column = np.nonzero(chosen)
    return PointCloud(scene.points[frame, row, column], scene.images[frame, row, column], frame, row, column)
