"""Bundle adjustment: cameras, and the points they see, moved until points project to where the pictures show them.

pycolmap does it (`pip install 'quantvggt[refine]'`), on tracks from `matches`. A scene is never made worse knowingly:
what the adjustment says is taken only if tracks that it was not shown agree better, and nothing moved absurdly far.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantvggt.reconstruction.bundle import (
    FEWEST_IN_FRAME,
    GAIN,
    Unrefined,
    Verdict,
    adjust,
    diagonal,
    in_world,
    judge,
    plausible,
    require_pycolmap,
    similarity,
    split,
)
from quantvggt.reconstruction.geometry import camera_centres, project, unproject
from quantvggt.reconstruction.matches import match
from quantvggt.reconstruction.points import Tracks
from quantvggt.reconstruction.scene import Scene

Float = NDArray[np.float64]

FEWEST_SHARED = 40
"""Observations that at least half of the frames must have: with fewer, cameras got worse on synthetic scenes."""
LOSS_SCALE = 0.01
"""Errors beyond this share of the diagonal count less and less (Cauchy)."""
DISPARITY = 0.08
"""Of the model's depth, as a share of the diagonal, see `_problem`."""
MOST_TURNED = 15.0
"""Degrees, of a camera."""
MOST_MOVED = 0.18
"""Of a camera, as a share of the median distance of what it sees."""


@dataclass(frozen=True)
class Refinement(Verdict):
    """scene: refined, or as it was if there is a `reason`."""

    scene: Scene


def refine(scene: Scene) -> Refinement:
    """Bundle adjustment of a scene's cameras; depth is rescaled to them frame by frame, and points follow.

    Intrinsics stay as they are: with little overlap, adjusted focal lengths make cameras worse. The world stays where
    it was, as far as a similarity can keep it there. Raises InputError if pycolmap is not installed.
    """
    require_pycolmap()
    start = time.perf_counter()
    count, before, after = 0, None, None
    try:
        points, tracks = match(scene)
        points, tracks = plausible(scene, points, tracks)
        count = len(points)
        shown, judges = split(points, tracks)
        shared = float(np.median(np.bincount(tracks.frame, minlength=len(scene.names))))
        if shared < FEWEST_SHARED:
            raise Unrefined(
                f"the pictures share too little: {shared:.0f} spots in a typical one, {FEWEST_SHARED} needed"
            )
        refined = _adjusted(scene, *shown)
        _check_motion(scene, refined)
        before, after = (judge(each, *judges) for each in (scene, refined))
        if not after < GAIN * before:
            raise Unrefined(f"the error on tracks it was not shown hardly falls ({before:.2f} -> {after:.2f} px)")
        reason = None
    except Unrefined as why:
        refined, reason = scene, str(why)
    return Refinement(reason, count, time.perf_counter() - start, before, after, refined)


def _adjusted(scene: Scene, points: Float, tracks: Tracks) -> Scene:
    """The scene with pycolmap's cameras, moved back by a similarity to where it was, depth rescaled."""
    model, config = _problem(scene, points, tracks)
    adjust(model, config, LOSS_SCALE * diagonal(scene), lens=False)
    extrinsics = scene.extrinsics.astype(np.float64)
    moved = np.bincount(tracks.frame, minlength=len(scene.names)) >= FEWEST_IN_FRAME
    if moved.sum() < 2:
        raise Unrefined("fewer than two pictures share enough spots")
    for frame in np.flatnonzero(moved).tolist():
        extrinsics[frame] = model.images[_left(frame)].cam_from_world().matrix()
    after = np.stack([model.points3D[number + 1].xyz for number in range(len(points))])
    if not (np.isfinite(extrinsics).all() and np.isfinite(after).all()):
        raise Unrefined("the adjusted cameras are not finite")
    back = similarity(after, points)
    after, extrinsics[moved] = back.apply(after), in_world(extrinsics[moved], back)
    return _rescaled(scene, replace(scene, extrinsics=extrinsics.astype(np.float32)), after, tracks)


def _problem(scene: Scene, points: Float, tracks: Tracks) -> tuple[Any, Any]:
    """The pycolmap.Reconstruction, points numbered as they are from 1 on, and what of it stays as it is.

    Pictures that share little would let bundle adjustment bend the scene. The model's depth holds it: beside every
    camera stands a second one, fixed to it, which sees each point shifted as far to the left as its depth says.
    DISPARITY is that shift at the scene's median depth: the larger, the more the depth counts beside the pictures.
    """
    import pycolmap

    height, width = scene.size
    model, config = pycolmap.Reconstruction(), pycolmap.BundleAdjustmentConfig()
    distance = float(np.median(scene.depth[scene.depth > 0]))
    place = np.full((len(tracks), 2), -1)
    for frame in range(len(scene.names)):
        lens = scene.intrinsics[frame].astype(np.float64)
        base = DISPARITY * float(np.hypot(height, width)) * distance / lens[0, 0]
        mine = np.flatnonzero(tracks.frame == frame)
        column, row = np.floor(tracks.xy[mine]).astype(np.intp).T
        depth = scene.depth[frame, row.clip(0, height - 1), column.clip(0, width - 1)]
        known = depth > 0
        shifted = tracks.xy[mine][known] - np.column_stack([lens[0, 0] * base / depth[known], np.zeros(known.sum())])
        place[mine, 0], place[mine[known], 1] = np.arange(len(mine)), np.arange(known.sum())
        rig = pycolmap.Rig(rig_id=frame + 1)
        group = pycolmap.Frame(frame_id=frame + 1, rig_id=frame + 1)
        parameters = [lens[0, 0], lens[1, 1], lens[0, 2], lens[1, 2]]
        for side in (_left(frame), _right(frame)):
            camera = pycolmap.Camera(camera_id=side, model="PINHOLE", width=width, height=height, params=parameters)
            model.add_camera(camera)
            if side == _left(frame):
                rig.add_ref_sensor(camera.sensor_id)
            else:
                rig.add_sensor(camera.sensor_id, pycolmap.Rigid3d(np.hstack([np.eye(3), [[-base], [0], [0]]])))
            group.add_data_id(pycolmap.data_t(camera.sensor_id, side))
            config.add_image(side)
        group.rig_from_world = pycolmap.Rigid3d(scene.extrinsics[frame].astype(np.float64))
        model.add_rig(rig)
        model.add_frame(group)
        for side, seen in ((_left(frame), tracks.xy[mine]), (_right(frame), shifted)):
            image = pycolmap.Image(name=str(side), keypoints=seen, camera_id=side, image_id=side)
            image.frame_id = frame + 1
            model.add_image(image)
    ends = np.searchsorted(tracks.point, np.arange(len(points) + 1))
    for number, xyz in enumerate(points):
        track = pycolmap.Track()
        for observation in range(ends[number], ends[number + 1]):
            for side, index in enumerate(place[observation].tolist()):
                if index >= 0:
                    track.add_element(_left(int(tracks.frame[observation])) + side, index)
        model.add_point3D(xyz, track)
    anchor = int(np.bincount(tracks.frame, minlength=len(scene.names)).argmax())
    config.set_constant_rig_from_world_pose(anchor + 1)
    return model, config


def _left(frame: int) -> int:
    return 2 * frame + 1


def _right(frame: int) -> int:
    return 2 * frame + 2


def _rescaled(scene: Scene, refined: Scene, points: Float, tracks: Tracks) -> Scene:
    """Depth brought to the points that each camera now sees, by one factor a frame; points unprojected from it."""
    depth = scene.depth.copy()
    for frame in range(len(scene.names)):
        mine = tracks.frame == frame
        if mine.sum() < FEWEST_IN_FRAME:
            continue
        _, z = project(points[tracks.point[mine]], refined.extrinsics[frame], refined.intrinsics[frame])
        column, row = np.floor(tracks.xy[mine]).astype(np.intp).T
        own = scene.depth[frame, row.clip(0, scene.size[0] - 1), column.clip(0, scene.size[1] - 1)]
        usable = (own > 0) & (z > 0)
        if usable.any():
            depth[frame] *= np.median(z[usable] / own[usable])
    world = unproject(depth, refined.extrinsics, refined.intrinsics)
    world[scene.points_conf <= 0] = 0
    return replace(refined, depth=depth, points=world)


def _check_motion(scene: Scene, refined: Scene) -> None:
    between = np.einsum("sij,skj->sik", scene.extrinsics[:, :, :3], refined.extrinsics[:, :, :3])
    turned = np.degrees(np.arccos(((np.trace(between, axis1=1, axis2=2) - 1) / 2).clip(-1, 1)))
    distance = float(np.median(scene.depth[scene.depth > 0]))
    moved = np.linalg.norm(camera_centres(refined.extrinsics) - camera_centres(scene.extrinsics), axis=1) / distance
    for values, limit, what in (
        (turned, MOST_TURNED, "turned by {:.0f} degrees"),
        (moved, MOST_MOVED, "moved by {:.2f} of the distance of what it sees"),
    ):
        worst = int(np.argmax(values))
        if not values[worst] <= limit:
            raise Unrefined(f"the camera of {scene.names[worst]} {what.format(values[worst])}, which is too far")
