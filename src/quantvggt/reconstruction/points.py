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
MOST_SORTED = 1 << 24
"""Confidences that a percentile is taken of; of more, a part of them is looked at."""


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
    threshold = _threshold(scene, min_confidence)
    counts = [int((frame >= threshold).sum()) for frame in scene.points_conf]
    drawn = _drawn(sum(counts), max_points, seed)
    frames, firsts = range(len(counts)), np.cumsum([0, *counts])
    parts = []
    for frame in frames:
        rows, columns = np.nonzero(scene.points_conf[frame] >= threshold)
        if drawn is not None:
            first, last = np.searchsorted(drawn, firsts[frame : frame + 2])
            kept = drawn[first:last] - firsts[frame]
            rows, columns = rows[kept], columns[kept]
        parts.append((np.full(len(rows), frame), rows, columns))
    frame_of, row, column = (np.concatenate(each) for each in zip(*parts, strict=True))
    xyz, rgb = (
        np.concatenate([array[frame][part[1], part[2]] for frame, part in zip(frames, parts, strict=True)])
        for array in (scene.points, scene.images)
    )
    return PointCloud(xyz, rgb, frame_of, row, column)


def _threshold(scene: "Scene", min_confidence: float) -> float:
    """That percentile of the confidences above 0; of a long scene, of a part of its pixels, the same in every frame."""
    step = max(1, round((scene.points_conf.size / MOST_SORTED) ** 0.5))
    confidence = np.concatenate([frame[::step, ::step].ravel() for frame in scene.points_conf])
    confidence = confidence[confidence > 0]
    if not len(confidence):
        raise InputError("the scene has no points: no pixel has a depth; check the images and the model")
    return float(np.percentile(confidence, min_confidence))


def draw(cloud: PointCloud, max_points: int | None, seed: int) -> PointCloud:
    """At most so many of the points, evenly at random, in their order; the same for the same seed."""
    drawn = _drawn(len(cloud), max_points, seed)
    return cloud if drawn is None else cloud.take(drawn)


def _drawn(count: int, most: int | None, seed: int) -> NDArray[np.intp] | None:
    """At most so many of that many, ascending; None: all."""
    if most is None or count <= most:
        return None
    return np.sort(np.random.default_rng(seed).choice(count, most, replace=False))


def check_selection(min_confidence: float, max_points: int | None) -> None:
    """Raises InputError unless the first is a percentile, and the second None or positive."""
    if not 0 <= min_confidence <= 100:
        raise InputError(f"min_confidence is {min_confidence}; it is a percentile, so give 0 to 100")
    if max_points is not None and max_points < 1:
        raise InputError(f"max_points is {max_points}; ask for at least 1")
