"""The same spots in several pictures, found where the model's points say and placed by what the pictures show.

The model's cameras and depth say how a patch around a pixel looks from another frame, but for an error of its place:
that is found by aligning the patch with the picture there (Lucas and Kanade 1981; "inverse" form of Baker and Matthews
2004, which differentiates the patch alone), coarse to fine, with brightness and contrast taken out.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, map_coordinates, maximum_filter, sobel

from quantvggt.reconstruction.depth import depth_edges
from quantvggt.reconstruction.geometry import project, unproject
from quantvggt.reconstruction.points import Tracks
from quantvggt.reconstruction.scene import Scene

Float = NDArray[np.float64]

DIAGONAL = 320
"""Of the frames that are matched, about, in pixels."""
RADIUS = 6
"""Patches are 2 RADIUS + 1 pixels wide."""
PER_FRAME = 400
"""Corners that each frame starts tracks from, at most."""
BLURS = (2.0, 1.0, 0.0)
"""Coarse to fine: standard deviations, in pixels."""
STEPS = 8
MOST_SHIFTED = 0.04
"""A patch may be off by this share of the frame's diagonal."""
ALIKE = 0.85
"""Least correlation of a patch with the picture where it was found."""
DEPTH_COMPARES = 0.15
"""A frame whose own depth differs more from a point's doesn't see it."""


@dataclass(frozen=True)
class Corners:
    """The pixels that tracks start from: frame, row, column: int [N]."""

    frame: NDArray[np.intp]
    row: NDArray[np.intp]
    column: NDArray[np.intp]


def match(scene: Scene, per_frame: int = PER_FRAME) -> tuple[NDArray[np.float64], Tracks]:
    """Where corners of each frame, at most `per_frame`, are seen in the others: start points float64 [N, 3] and tracks
    of two or more.

    The first observation of a point is the centre of the pixel that it starts from. Large frames are made smaller by a
    whole number first: a patch must be large enough to be recognised.
    """
    factor = max(1, round(float(np.hypot(*scene.size)) / DIAGONAL))
    start, tracks = _match(reduced(scene, factor), per_frame)
    return start, replace(tracks, xy=tracks.xy * factor)


def reduced(scene: Scene, factor: int) -> Scene:
    """The scene in frames smaller by a whole factor: means of pixels; no depth where one of them has none."""
    if factor == 1:
        return scene
    count, height, width = len(scene.names), scene.size[0] // factor, scene.size[1] // factor

    def blocks(values: NDArray[Any]) -> NDArray[Any]:
        whole = values[:, : height * factor, : width * factor]
        return whole.reshape(count, height, factor, width, factor, *values.shape[3:]).swapaxes(2, 3)

    depth = np.where((blocks(scene.depth) > 0).all((3, 4)), blocks(scene.depth).mean((3, 4)), 0).astype(np.float32)
    confidence = np.where(depth > 0, blocks(scene.depth_conf).mean((3, 4)), 0).astype(np.float32)
    lenses = scene.intrinsics.copy()
    lenses[:, :2] /= factor
    return replace(
        scene,
        images=blocks(scene.images).mean((3, 4)).round().astype(np.uint8),
        intrinsics=lenses,
        depth=depth,
        depth_conf=confidence,
        points=unproject(depth, scene.extrinsics, lenses),
        points_conf=confidence.copy(),
    )


def _match(scene: Scene, per_frame: int) -> tuple[NDArray[np.float64], Tracks]:
    grey = scene.images.astype(np.float64) @ (0.299, 0.587, 0.114) / 255
    corners = find_corners(scene, grey, per_frame)
    around = np.arange(-RADIUS, RADIUS + 1)
    rows = corners.row[:, None, None] + around[:, None]
    columns = corners.column[:, None, None] + around
    place = (corners.frame[:, None, None], rows, columns)
    patches, surface, valid = grey[place], scene.points[place].astype(np.float64), scene.depth[place] > 0
    start = scene.points[corners.frame, corners.row, corners.column].astype(np.float64)
    own = np.stack([corners.column, corners.row], -1).astype(np.float64) + 0.5
    found = [Tracks(np.arange(len(start)), corners.frame, own)]
    for frame in range(len(scene.names)):
        seen = _worth_a_look(scene, corners, start, valid, frame)
        if not len(seen):
            continue
        xy, alike = _align(grey[frame], *_warped(scene, surface[seen], frame), patches[seen])
        good = alike >= ALIKE
        found.append(Tracks(seen[good], np.full(int(good.sum()), frame), xy[good]))
    point = np.concatenate([part.point for part in found])
    lengths = np.bincount(point, minlength=len(start))
    order = np.argsort(point, kind="stable")
    order = order[lengths[point[order]] > 1]
    number = np.cumsum(lengths > 1) - 1
    tracks = Tracks(
        number[point[order]],
        np.concatenate([part.frame for part in found])[order],
        np.concatenate([part.xy for part in found])[order],
    )
    return start[lengths > 1], tracks


def find_corners(scene: Scene, grey: Float, most: int) -> Corners:
    """The strongest corners of every frame, `most` of them from all over it, apart from each other, with a whole patch
    on one surface around them.

    Strength is the smaller eigenvalue of the gradients' second moments (Shi and Tomasi 1994).
    """
    height, width = scene.size
    flat = ~depth_edges(scene.depth) & (scene.depth > 0)
    found = []
    for frame, picture in enumerate(grey):
        down, across = sobel(picture, 0), sobel(picture, 1)
        xx, yy, xy = (gaussian_filter(product, 2.0) for product in (across**2, down**2, across * down))
        strength = (xx + yy) / 2 - np.sqrt(((xx - yy) / 2) ** 2 + xy**2)
        peak = (strength == maximum_filter(strength, 5)) & (strength > 1e-4) & flat[frame]
        peak[:RADIUS] = peak[height - RADIUS :] = False
        peak[:, :RADIUS] = peak[:, width - RADIUS :] = False
        rows, columns = np.nonzero(peak)
        best = np.sort(np.argsort(-strength[rows, columns], kind="stable")[:PER_FRAME])
        if len(best) > most:  # row by row, so that they are spread over the picture
            best = best[np.linspace(0, len(best) - 1, most).round().astype(np.intp)]
        found.append((np.full(len(best), frame), rows[best], columns[best]))
    return Corners(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _worth_a_look(
    scene: Scene, corners: Corners, start: Float, valid: NDArray[np.bool_], frame: int
) -> NDArray[np.intp]:
    """The corners of other frames that this one should see, by the model's cameras and depth."""
    height, width = scene.size
    xy, z = project(start, scene.extrinsics[frame], scene.intrinsics[frame])
    inside = (z > 0) & (xy > RADIUS).all(-1) & (xy < (width - RADIUS, height - RADIUS)).all(-1)
    chosen = np.flatnonzero(inside & (corners.frame != frame) & valid.all((1, 2)))
    column, row = np.floor(xy[chosen]).astype(np.intp).T
    depth = scene.depth[frame, row, column]
    return chosen[np.abs(depth - z[chosen]) <= DEPTH_COMPARES * z[chosen]]


def _warped(scene: Scene, surface: Float, frame: int) -> tuple[Float, Float]:
    """Where the patches' pixels are seen in a frame: their centres [N, 2], and offsets from there [N, P, P, 2]."""
    xy, _ = project(surface, scene.extrinsics[frame], scene.intrinsics[frame])
    centre = xy[:, RADIUS, RADIUS]
    return centre, xy - centre[:, None, None]


def _align(picture: Float, centre: Float, offsets: Float, patches: Float) -> tuple[Float, Float]:
    """Shift patches until they fit: where their centres then lie [N, 2], and how well they fit there, -1 to 1.

    One that leaves the picture or moves too far fits -1.
    """
    limit = MOST_SHIFTED * float(np.hypot(*picture.shape))
    shift = np.zeros_like(centre)
    for blur in BLURS:
        smooth = gaussian_filter(picture, blur) if blur else picture
        down, across = np.gradient(smooth)
        wanted = _normalised(gaussian_filter(patches, (0, blur, blur)) if blur else patches)
        for _ in range(STEPS):
            places = offsets + (centre + shift)[:, None, None] - 0.5
            at = [places[..., 1], places[..., 0]]
            found, scale = _normalised(map_coordinates(smooth, at, order=1, mode="nearest"), with_scale=True)
            gradient = np.stack([map_coordinates(slope, at, order=1, mode="nearest") for slope in (across, down)], -1)
            gradient = gradient.reshape(len(centre), -1, 2)
            gradient -= gradient.mean(1, keepdims=True)
            gradient /= scale[:, None, None]
            wrong = (wanted - found).reshape(len(centre), -1, 1)
            normal = gradient.swapaxes(1, 2) @ gradient + 1e-6 * np.eye(2)
            step = np.linalg.solve(normal, gradient.swapaxes(1, 2) @ wrong)[..., 0]
            shift += np.clip(step, -1.5, 1.5)
    places = offsets + (centre + shift)[:, None, None] - 0.5
    found = _normalised(map_coordinates(picture, [places[..., 1], places[..., 0]], order=1, mode="nearest"))
    alike = (found * _normalised(patches)).mean((1, 2))
    height, width = picture.shape
    inside = (places >= 0).all((1, 2, 3)) & (places <= (width - 1, height - 1)).all((1, 2, 3))
    near = np.linalg.norm(shift, axis=-1) <= limit
    return centre + shift, np.where(inside & near, alike, -1.0)


def _normalised(patches: Float, with_scale: bool = False):  # type: ignore[no-untyped-def]
    """Patches [N, P, P] with mean 0 and deviation 1; with_scale: and what they were divided by [N]."""
    centred = patches - patches.mean((1, 2), keepdims=True)
    scale = np.maximum(centred.std((1, 2)), 1e-4)
    normal = centred / scale[:, None, None]
    return (normal, scale) if with_scale else normal
