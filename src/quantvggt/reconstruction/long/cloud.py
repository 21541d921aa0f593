"""The points of a long scene: fused part by part, no more than memory can hold."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from quantvggt.reconstruction.export import ExportOptions, points_of
from quantvggt.reconstruction.points import PointCloud, Tracks, draw, joined
from quantvggt.reconstruction.scene import Scene

MOST_OBSERVATIONS = 3_000_000
"""In all tracks together; writing COLMAP's files takes about 150 bytes for each."""


def cloud_of(scene: Scene, options: ExportOptions, frames: int, observations: int = MOST_OBSERVATIONS) -> PointCloud:
    """What `points_of` gives, `frames` frames at a time: a point's track ends where its part does, and each part has
    its own percentile of confidence. Where the tracks have more observations than that, or there are more than
    `options.max_points` points, some are drawn evenly from all. Raises InputError as `points_of` does."""
    count = -(-len(scene.names) // frames)
    share = observations // count
    most = None if options.max_points is None else max(1, options.max_points // count)
    options = replace(options, max_points=most)
    return joined([_within(points_of(part, options), share, first) for first, part in _parts(scene, frames)])


def _parts(scene: Scene, frames: int) -> Iterator[tuple[int, Scene]]:
    for first in range(0, len(scene.names), frames):
        here = slice(first, first + frames)
        arrays: dict[str, Any] = {
            name: np.asarray(getattr(scene, name)[here])
            for name in ("images", "extrinsics", "intrinsics", "depth", "depth_conf", "points", "points_conf")
        }
        yield first, Scene(names=scene.names[here], **arrays)


def _within(cloud: PointCloud, observations: int, first: int) -> PointCloud:
    """At most so many observations, frames counted from `first` on."""
    seen = len(cloud.tracks)
    if seen > observations:
        cloud = draw(cloud, max(1, len(cloud) * observations // seen), 0)
    tracks = cloud.tracks
    moved = Tracks(tracks.point, tracks.frame + first, tracks.xy)
    return replace(cloud, frame=cloud.frame + first, fused=moved)
