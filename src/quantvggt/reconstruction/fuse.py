"""Many pixels, one point: what several frames see of one place becomes one point with a track, and what they
contradict goes.

As in multi-view stereo (the geometric check of COLMAP's fusion): a point goes from its pixel into another frame, takes
that frame's own depth there, and comes back. If depth and pixel agree, both frames see it.
"""

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.errors import InputError
from quantvggt.core.limits import usable_cpus
from quantvggt.reconstruction.depth import depth_edges, sample_depth
from quantvggt.reconstruction.geometry import project
from quantvggt.reconstruction.points import PointCloud, Tracks, draw, joined
from quantvggt.reconstruction.scene import Scene

DEPTH_AGREES = 0.02
"""Largest difference of two frames' depths of one point, as a share of the depth."""
PIXELS_AGREE = 2.0
"""Largest distance, in pixels of the point's own frame, between its pixel and where the other frame's depth puts it."""
SEEN_THROUGH = 0.1
"""A frame whose own depth exceeds a point's by this share looks through the point."""
CHUNK = 1 << 15
"""Points worked on at a time: what stays in a processor's cache."""


def fuse(
    scene: Scene,
    cloud: PointCloud,
    clean: bool = True,
    voxel: float | None = None,
    max_points: int | None = None,
    seed: int = 0,
) -> PointCloud:
    """One point for each voxel that `cloud` (of `select_points`) has points in, with its tracks.

    clean: leave out pixels on depth edges, and floaters: points that no other frame has, though another one looks
    through them; a cloud that has nothing else stays whole, with a warning. voxel: its edge in the scene's unit; None:
    `pixel_footprint`; 0: every pixel stays a point. max_points: draw at most so many of what is left, the same for the
    same seed.
    A point starts from the surest pixel of its voxel, where it is seen; each other frame that agrees adds where the
    point lies in it, and the point moves to the mean of what these frames' own depths say. Colours are means of the
    voxel's pixels. Raises InputError for a negative voxel.
    """
    check_voxel(voxel)
    edge = pixel_footprint(scene, cloud) if voxel is None else voxel
    fused = _fused(scene, _inside_surfaces(scene, cloud), edge, True) if clean else _fused(scene, cloud, edge, False)
    if not len(fused):
        warnings.warn(
            "every point lies on a depth edge or is one that other frames look through: none is left out, but expect "
            "little of them",
            stacklevel=3,
        )
        fused = _fused(scene, cloud, edge, False)
    return draw(fused, max_points, seed)


def check_voxel(voxel: float | None) -> None:
    """Raises InputError unless it is None or not negative."""
    if voxel is not None and not 0 <= voxel < np.inf:
        raise InputError(f"voxel is {voxel}; give the edge of a voxel in the scene's unit, or 0 to merge nothing")


def _inside_surfaces(scene: Scene, cloud: PointCloud) -> PointCloud:
    edges = depth_edges(scene.depth)
    return cloud.take(np.flatnonzero(~edges[cloud.frame, cloud.row, cloud.column]))


def _fused(scene: Scene, cloud: PointCloud, edge: float, clean: bool) -> PointCloud:
    if not len(cloud):
        return cloud
    return _with_tracks(scene, _merged(scene, cloud, edge) if edge > 0 else cloud, clean)


def pixel_footprint(scene: Scene, cloud: PointCloud) -> float:
    """How wide a pixel is on the surfaces, at the median over the points."""
    depth = scene.depth[cloud.frame, cloud.row, cloud.column]
    return float(np.median(depth / scene.intrinsics[cloud.frame, 0, 0]))


def _merged(scene: Scene, cloud: PointCloud, edge: float) -> PointCloud:
    """The surest point of each voxel, with the voxel's mean colour."""
    key = _voxel_keys(cloud.xyz, edge)
    confidence = scene.points_conf[cloud.frame, cloud.row, cloud.column]
    order = np.lexsort((-confidence, key))
    starts = np.flatnonzero(np.concatenate([[True], np.diff(key[order]) != 0]))
    counts = np.diff(np.append(starts, len(order)))
    colours = np.add.reduceat(cloud.rgb[order].astype(np.int64), starts) / counts[:, None]
    surest = order[starts]
    in_order = np.argsort(surest)
    return replace(cloud.take(surest[in_order]), rgb=colours[in_order].round().astype(np.uint8))


def _voxel_keys(xyz: NDArray[np.float32], edge: float) -> NDArray[np.uint64]:
    """One number a voxel: three coordinates hashed into 64 bits, so that a stray point far away costs nothing."""
    cell = np.floor(xyz.astype(np.float64) / edge)
    limit = 2.0**62
    whole = np.clip(cell, -limit, limit).astype(np.int64).view(np.uint64)
    mixed = np.zeros(len(xyz), np.uint64)
    for axis, factor in enumerate((0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9)):
        mixed = (mixed ^ whole[:, axis]) * np.uint64(factor)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _with_tracks(scene: Scene, cloud: PointCloud, clean: bool) -> PointCloud:
    """The points where the frames that see them put them, with all observations; without floaters if `clean`."""
    parts = [cloud.take(np.arange(start, min(start + CHUNK, len(cloud)))) for start in range(0, len(cloud), CHUNK)]
    with ThreadPoolExecutor(max_workers=min(4, usable_cpus())) as pool:
        return joined(list(pool.map(lambda part: _seen(scene, part, clean), parts)))


def _seen(scene: Scene, cloud: PointCloud, clean: bool) -> PointCloud:
    count = len(cloud)
    total, seen = cloud.xyz.astype(np.float64), np.ones(count, np.intp)
    through = np.zeros(count, bool)
    found = [Tracks(np.arange(count), cloud.frame, cloud.pixels)]
    for frame in range(len(scene.names)):
        more, xyz, transparent = _in_frame(scene, cloud, frame)
        total[more.point] += xyz
        seen[more.point] += 1
        through[transparent] = True
        found.append(more)
    place = np.concatenate([part.point for part in found])
    order = np.argsort(place, kind="stable")
    tracks = Tracks(
        place[order],
        np.concatenate([part.frame for part in found])[order],
        np.concatenate([part.xy for part in found])[order],
    )
    moved = replace(cloud, xyz=(total / seen[:, None]).astype(np.float32), fused=tracks)
    return moved.take(np.flatnonzero((seen > 1) | ~through)) if clean else moved


def _in_frame(scene: Scene, cloud: PointCloud, frame: int) -> tuple[Tracks, NDArray[np.float64], NDArray[np.intp]]:
    """What a frame says of other frames' points: those it sees too, where its own depth puts them [M, 3], and those it
    looks through."""
    height, width = scene.size
    others = np.flatnonzero(cloud.frame != frame)
    xy, z = project(cloud.xyz[others], scene.extrinsics[frame], scene.intrinsics[frame])
    inside = np.flatnonzero((z > 0) & (xy > 0).all(-1) & (xy < (width, height)).all(-1))
    points, xy, z = others[inside], xy[inside], z[inside]
    depth = sample_depth(scene.depth[frame], xy)
    through = points[depth > (1 + SEEN_THROUGH) * z]
    close = np.flatnonzero((np.abs(depth - z) <= DEPTH_AGREES * z) & (depth > 0))
    points, xy = points[close], xy[close]
    xyz = _unproject_at(scene, frame, xy, depth[close])
    agree = np.flatnonzero(_distance_at_home(scene, cloud, points, xyz) <= PIXELS_AGREE)
    return Tracks(points[agree], np.full(len(agree), frame), xy[agree]), xyz[agree], through


def _unproject_at(scene: Scene, frame: int, xy: NDArray[np.float64], depth: NDArray[np.float64]) -> NDArray[np.float64]:
    camera, lens = scene.extrinsics[frame].astype(np.float64), scene.intrinsics[frame].astype(np.float64)
    rays = np.column_stack([(xy - lens[:2, 2]) / lens[[0, 1], [0, 1]], np.ones(len(xy))])
    return (rays * depth[:, None] - camera[:, 3]) @ camera[:, :3]


def _distance_at_home(
    scene: Scene, cloud: PointCloud, points: NDArray[np.intp], xyz: NDArray[np.float64]
) -> NDArray[np.float64]:
    """How far, in pixels, xyz [M, 3] lies from the pixels that these points come from."""
    distance = np.empty(len(points))
    home, pixels = cloud.frame[points], cloud.pixels[points]
    for frame in np.unique(home):
        mine = home == frame
        xy, z = project(xyz[mine], scene.extrinsics[frame], scene.intrinsics[frame])
        distance[mine] = np.where(z > 0, np.linalg.norm(xy - pixels[mine], axis=-1), np.inf)
    return distance
