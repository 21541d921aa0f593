"""Bundle adjustment of a whole sequence: what chunks have seen together puts each frame's camera in its place.

Joined chunks bend the path, because each has a focal length of its own. Here pictures alone speak, as structure from
motion has them: where rays meet, without the model's depth, and with one lens where one camera has taken them all.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.similarity import Similarity
from quantvggt.reconstruction.bundle import (
    FEWEST_IN_FRAME,
    GAIN,
    WORST_ERROR,
    Unrefined,
    Verdict,
    adjust,
    by_frame,
    diagonal,
    errors,
    in_world,
    judge,
    kept,
    meet,
    plausible,
    split,
)
from quantvggt.reconstruction.geometry import camera_centres, project
from quantvggt.reconstruction.long.chunk import Chunk
from quantvggt.reconstruction.long.spots import Spots
from quantvggt.reconstruction.points import Tracks

ROUNDS = (0.03, 0.01)
"""Errors beyond these shares of the diagonal count less and less (Cauchy): first all bends are to be straightened."""
Float = NDArray[np.float64]


@dataclass(frozen=True)
class CameraPath:
    """The cameras of all frames: places ascending [S]; extrinsics [S, 3, 4], world-to-camera; intrinsics [S, 3, 3], of
    pictures of `size` (height, width); depth_factors [S]: by how much the depth of each is to be multiplied."""

    places: NDArray[np.intp]
    extrinsics: Float
    intrinsics: Float
    size: tuple[int, int]
    depth_factors: Float

    def rows(self, places: Sequence[int]) -> NDArray[np.intp]:
        return np.searchsorted(self.places, places)


def path_of(chunks: Iterable[Chunk], owned: Mapping[int, Sequence[int]], worlds: Sequence[Similarity]) -> CameraPath:
    """Cameras as joined chunks have them: each frame's from the chunk that contributes it."""
    places, extrinsics, intrinsics, size = list[int](), list[Float](), list[Float](), (0, 0)
    for number, chunk in enumerate(chunks):
        rows = [chunk.row(place) for place in owned.get(number, [])]
        if rows:
            places += [chunk.frames[row] for row in rows]
            extrinsics.append(in_world(chunk.extrinsics[rows], worlds[number]))
            intrinsics.append(chunk.intrinsics[rows].astype(np.float64))
            size = chunk.depth.shape[1], chunk.depth.shape[2]
    order = np.argsort(places)
    cameras, lenses = np.concatenate(extrinsics)[order], np.concatenate(intrinsics)[order]
    return CameraPath(np.asarray(places, np.intp)[order], cameras, lenses, size, np.ones(len(places)))


def straightened(path: CameraPath, spots: Spots, one_lens: bool) -> tuple[CameraPath | None, Verdict]:
    """The path that agrees best with what the frames share; None if that can't be shown to be better.

    spots: their depth in the path's world, from the chunk that contributes the frame, 0 in others. one_lens: one camera
    has taken all frames, and its focal length is found too; else each keeps its lens. A fifth of the points takes no
    part and judges. A frame that shares too little goes with the nearest one that doesn't.
    """
    start = time.perf_counter()
    tracks = replace(spots.tracks, frame=path.rows(spots.tracks.frame.tolist()))
    count = len(np.unique(tracks.point))
    before = after = reason = None
    found = path
    try:
        if not count:
            raise Unrefined("the pictures share no spots")
        points = meet(path, tracks, count)
        (points, shown), judges = split(points, tracks)
        if not len(judges[0]):
            raise Unrefined("the pictures share too few spots")
        if one_lens:
            found = replace(found, intrinsics=np.repeat(np.median(found.intrinsics, 0)[None], len(found.places), 0))
        before = after = judge(path, *judges)
        for number, loss in enumerate(ROUNDS):
            try:
                step, moved = _adjusted(found, points, shown, loss, one_lens)
            except Unrefined:
                if number:  # what the rounds before have found holds
                    break
                raise
            step = _followed(path, _back(path, step), moved)
            error = judge(step, *judges)
            if not error < after:
                break
            found, after = step, error
        if not after < GAIN * before:
            raise Unrefined(f"the error on tracks it was not shown hardly falls ({before:.2f} -> {after:.2f} px)")
        found = _with_depth(found, tracks, spots.depth, count)
    except Unrefined as why:
        reason = str(why)
    return found if reason is None else None, Verdict(reason, count, time.perf_counter() - start, before, after)


def _adjusted(
    path: CameraPath, points: Float, tracks: Tracks, loss: float, one_lens: bool
) -> tuple[CameraPath, NDArray[np.bool_]]:
    """After one adjustment; and which frames took part. Raises Unrefined if it fails."""
    points, tracks = plausible(path, meet(path, tracks, len(points)), tracks)
    seen = np.bincount(tracks.frame, minlength=len(path.places)) >= FEWEST_IN_FRAME
    points, tracks = kept(points, tracks, seen[tracks.frame])
    seen = np.bincount(tracks.frame, minlength=len(path.places)) > 0
    if seen.sum() < 2:
        raise Unrefined("fewer than two pictures share enough spots")
    model, config = _problem(path, points, tracks, one_lens)
    adjust(model, config, loss * diagonal(path), one_lens)
    extrinsics, intrinsics = path.extrinsics.copy(), path.intrinsics.copy()
    for frame in np.flatnonzero(seen).tolist():
        extrinsics[frame] = model.images[frame + 1].cam_from_world().matrix()
    if one_lens:
        intrinsics[:, (0, 1), (0, 1)] = model.cameras[1].params[:2]
    if not (np.isfinite(extrinsics).all() and np.isfinite(intrinsics).all()):
        raise Unrefined("the adjusted cameras are not finite")
    return replace(path, extrinsics=extrinsics, intrinsics=intrinsics), seen


def _problem(path: CameraPath, points: Float, tracks: Tracks, one_lens: bool) -> tuple[Any, Any]:
    """The pycolmap.Reconstruction, frames and points numbered as they are from 1 on, and what of it stays as it is."""
    import pycolmap

    height, width = path.size
    model, config = pycolmap.Reconstruction(), pycolmap.BundleAdjustmentConfig()
    place = np.empty(len(tracks), np.intp)
    frames = by_frame(tracks)
    for frame, mine in frames:
        place[mine] = np.arange(len(mine))
        lens = 1 if one_lens else frame + 1
        if not model.exists_camera(lens):
            (fx, _, cx), (_, fy, cy), _ = path.intrinsics[frame].tolist()
            camera = pycolmap.Camera(
                camera_id=lens, model="PINHOLE", width=width, height=height, params=[fx, fy, cx, cy]
            )
            model.add_camera_with_trivial_rig(camera)
        image = pycolmap.Image(name=str(frame), keypoints=tracks.xy[mine], camera_id=lens, image_id=frame + 1)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(path.extrinsics[frame]))
        config.add_image(frame + 1)
    ends = np.searchsorted(tracks.point, np.arange(len(points) + 1)).tolist()
    for number, xyz in enumerate(points):
        track = pycolmap.Track()
        for observation in range(ends[number], ends[number + 1]):
            track.add_element(int(tracks.frame[observation]) + 1, int(place[observation]))
        model.add_point3D(xyz, track)
    anchor = max(frames, key=lambda each: len(each[1]))[0]
    config.set_constant_rig_from_world_pose(anchor + 1)
    return model, config


def _back(path: CameraPath, found: CameraPath) -> CameraPath:
    """Moved to where the path was: as its cameras look on average, around their middle and as far apart."""
    u, _, vt = np.linalg.svd(np.einsum("sij,sik->jk", path.extrinsics[:, :, :3], found.extrinsics[:, :, :3]))
    turn = (u * (1.0, 1.0, np.linalg.det(u @ vt))) @ vt
    (middle, spread), (target, wanted) = (
        (centres.mean(0), float(np.linalg.norm(centres - centres.mean(0))))
        for centres in (camera_centres(found.extrinsics), camera_centres(path.extrinsics))
    )
    scale = wanted / spread if wanted > 0 and spread > 0 else 1.0
    motion = Similarity(scale, turn, target - scale * turn @ middle)
    return replace(found, extrinsics=in_world(found.extrinsics, motion))


def _followed(path: CameraPath, found: CameraPath, moved: NDArray[np.bool_]) -> CameraPath:
    """Frames that took no part stand to the nearest that did as they stood in `path`."""
    extrinsics, part = found.extrinsics.copy(), np.flatnonzero(moved)
    for frame in np.flatnonzero(~moved).tolist():
        nearest = part[np.abs(path.places[part] - path.places[frame]).argmin()]
        between = _square(path.extrinsics[frame]) @ np.linalg.inv(_square(path.extrinsics[nearest]))
        extrinsics[frame] = (between @ _square(found.extrinsics[nearest]))[:3]
    return replace(found, extrinsics=extrinsics)


def _square(extrinsics: Float) -> Float:
    return np.vstack([extrinsics, [0, 0, 0, 1]])


def _with_depth(path: CameraPath, tracks: Tracks, depth: Float, count: int) -> CameraPath:
    """With the factor that brings each frame's depth to the points that it now sees; else the nearest frame's."""
    points = meet(path, tracks, count)
    good = (depth > 0) & (errors(path, points, tracks) <= WORST_ERROR * diagonal(path))
    factors = np.full(len(path.places), np.nan)
    for frame, mine in by_frame(tracks):
        usable = mine[good[mine]]
        if len(usable) >= FEWEST_IN_FRAME:
            _, z = project(points[tracks.point[usable]], path.extrinsics[frame], path.intrinsics[frame])
            factors[frame] = np.median(z / depth[usable])
    told = np.flatnonzero(np.isfinite(factors))
    if len(told):
        nearest = np.abs(path.places[:, None] - path.places[told]).argmin(1)
        factors = factors[told[nearest]]
    return replace(path, depth_factors=np.where(np.isfinite(factors), factors, 1.0))
