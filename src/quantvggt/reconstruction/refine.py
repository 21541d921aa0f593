"""Bundle adjustment: cameras, and the points they see, moved until points project to where the pictures show them.

pycolmap does it (`pip install 'quantvggt[refine]'`), on tracks from `matches`. A scene is never made worse knowingly:
what the adjustment says is taken only if tracks that it was not shown agree better, and nothing moved absurdly far.
"""

import time
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.geometry import camera_centres, project, unproject
from quantvggt.reconstruction.matches import match
from quantvggt.reconstruction.points import Tracks
from quantvggt.reconstruction.scene import Scene

Float = NDArray[np.float64]

HELD_OUT = 5
"""Every so manyth track judges the result and takes no part in it."""
GAIN = 0.8
"""Their error must fall to this share at least: less may be chance."""
FEWEST_SHARED = 40
"""Observations that at least half of the frames must have: with fewer, cameras got worse on synthetic scenes."""
FEWEST_IN_FRAME = 8
"""A frame with fewer observations keeps its camera."""
WORST_ERROR = 0.05
"""Observations off by more than this share of the diagonal before the adjustment are mismatches."""
LOSS_SCALE = 0.01
"""Errors beyond this share of the diagonal count less and less (Cauchy)."""
DISPARITY = 0.08
"""Of the model's depth, as a share of the diagonal, see `_problem`."""
MOST_TURNED = 15.0
"""Degrees, of a camera."""
MOST_MOVED = 0.18
"""Of a camera, as a share of the median distance of what it sees."""


@dataclass(frozen=True)
class Refinement:
    """scene: refined, or as it was if `reason` says why not. before, after: median reprojection error, in pixels of the
    frames, on tracks that the adjustment was not shown (None where it didn't come so far)."""

    scene: Scene
    reason: str | None
    tracks: int
    seconds: float
    before: float | None = None
    after: float | None = None

    def record(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "applied": self.reason is None,
            "reason": self.reason,
            "tracks": self.tracks,
            "seconds": round(self.seconds, 2),
            "error_before": self.before,
            "error_after": self.after,
        }

    def summary(self) -> str:
        """One line for people."""
        if self.reason is not None:
            return f"not refined: {self.reason}; the scene is as the model says"
        return (
            f"refined with {self.tracks} tracks in {self.seconds:.1f} s: error {self.before:.2f} -> {self.after:.2f} px"
        )


class _Unrefined(Exception):
    """Why not."""


def require_pycolmap() -> None:
    """Raises InputError unless pycolmap is installed."""
    if find_spec("pycolmap") is None:
        raise InputError("refining needs pycolmap; pip install 'quantvggt[refine]', or leave --refine out")


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
        points, tracks = _plausible(scene, points, tracks)
        count = len(points)
        shown, judges = _split(points, tracks)
        shared = float(np.median(np.bincount(tracks.frame, minlength=len(scene.names))))
        if shared < FEWEST_SHARED:
            raise _Unrefined(
                f"the pictures share too little: {shared:.0f} spots in a typical one, {FEWEST_SHARED} needed"
            )
        refined = _adjusted(scene, *shown)
        _check_motion(scene, refined)
        before, after = (_judge(each, *judges) for each in (scene, refined))
        if not after < GAIN * before:
            raise _Unrefined(f"the error on tracks it was not shown hardly falls ({before:.2f} -> {after:.2f} px)")
        reason = None
    except _Unrefined as why:
        refined, reason = scene, str(why)
    return Refinement(refined, reason, count, time.perf_counter() - start, before, after)


def _plausible(scene: Scene, points: Float, tracks: Tracks) -> tuple[Float, Tracks]:
    """Without observations that are far from where the scene has them, and without points of one observation."""
    limit = WORST_ERROR * float(np.hypot(*scene.size))
    return _kept(points, tracks, _errors(scene, points, tracks) <= limit)


def _kept(points: Float, tracks: Tracks, good: NDArray[np.bool_]) -> tuple[Float, Tracks]:
    lengths = np.bincount(tracks.point[good], minlength=len(points))
    good = good & (lengths[tracks.point] > 1)
    number = np.cumsum(lengths > 1) - 1
    return points[lengths > 1], Tracks(number[tracks.point[good]], tracks.frame[good], tracks.xy[good])


def _split(points: Float, tracks: Tracks) -> tuple[tuple[Float, Tracks], tuple[Float, Tracks]]:
    """For the adjustment, and for judging it."""
    judging = np.arange(len(points)) % HELD_OUT == 0
    return (
        _kept(points, tracks, ~judging[tracks.point]),
        _kept(points, tracks, judging[tracks.point]),
    )


def _errors(scene: Scene, points: Float, tracks: Tracks) -> Float:
    errors = np.full(len(tracks), np.inf)
    for frame in range(len(scene.names)):
        mine = tracks.frame == frame
        xy, z = project(points[tracks.point[mine]], scene.extrinsics[frame], scene.intrinsics[frame])
        errors[mine] = np.where(z > 0, np.linalg.norm(xy - tracks.xy[mine], axis=-1), np.inf)
    return errors


def _adjusted(scene: Scene, points: Float, tracks: Tracks) -> Scene:
    """The scene with pycolmap's cameras, moved back by a similarity to where it was, depth rescaled."""
    import pycolmap

    model, config = _problem(scene, points, tracks)
    options = pycolmap.BundleAdjustmentOptions()
    options.refine_focal_length = options.refine_principal_point = options.refine_extra_params = False
    options.refine_sensor_from_rig = options.print_summary = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = LOSS_SCALE * float(np.hypot(*scene.size))
    level, pycolmap.logging.minloglevel = pycolmap.logging.minloglevel, pycolmap.logging.Level.ERROR.value
    try:
        done = pycolmap.create_default_bundle_adjuster(options, config, model).solve()
    except Exception as error:  # it raises whatever Ceres stumbles over
        raise _Unrefined(f"the adjustment failed ({error})") from error
    finally:
        pycolmap.logging.minloglevel = level
    if not done.is_solution_usable():
        raise _Unrefined("the adjustment diverged")
    extrinsics = scene.extrinsics.astype(np.float64)
    moved = np.bincount(tracks.frame, minlength=len(scene.names)) >= FEWEST_IN_FRAME
    if moved.sum() < 2:
        raise _Unrefined("fewer than two pictures share enough spots")
    for frame in np.flatnonzero(moved).tolist():
        extrinsics[frame] = model.images[_left(frame)].cam_from_world().matrix()
    after = np.stack([model.points3D[number + 1].xyz for number in range(len(points))])
    if not (np.isfinite(extrinsics).all() and np.isfinite(after).all()):
        raise _Unrefined("the adjusted cameras are not finite")
    scale, turn, shift = _similarity(after, points)
    after = scale * after @ turn.T + shift
    rotation = extrinsics[moved][:, :, :3] @ turn.T
    translation = scale * extrinsics[moved][:, :, 3] - rotation @ shift
    extrinsics[moved] = np.concatenate([rotation, translation[:, :, None]], axis=2)
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


def _similarity(source: Float, target: Float) -> tuple[float, Float, Float]:
    """Scale, rotation and shift that bring most of `source` to `target`: least squares, the worst tenth left aside.

    Umeyama 1991, as in `evaluate.metrics.alignment`, which lies above this room.
    """
    near = np.ones(len(source), bool)
    for _ in range(2):
        mean_a, mean_b = source[near].mean(0), target[near].mean(0)
        a, b = source[near] - mean_a, target[near] - mean_b
        u, singular, vt = np.linalg.svd(b.T @ a)
        proper = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
        turn = (u * proper) @ vt
        scale = float(singular @ proper / (a**2).sum())
        shift = mean_b - scale * turn @ mean_a
        left = np.linalg.norm(scale * source @ turn.T + shift - target, axis=1)
        near = left <= np.quantile(left, 0.9)
    return scale, turn, shift


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
            raise _Unrefined(f"the camera of {scene.names[worst]} {what.format(values[worst])}, which is too far")


def _judge(scene: Scene, points: Float, tracks: Tracks) -> float:
    """Median error of tracks in a scene's cameras, each point put where the rays of its observations meet best."""
    rays = np.empty((len(tracks), 3))
    centres = camera_centres(scene.extrinsics)
    for frame in range(len(scene.names)):
        mine = tracks.frame == frame
        lens = scene.intrinsics[frame].astype(np.float64)
        pixels = np.column_stack([tracks.xy[mine], np.ones(int(mine.sum()))])
        rays[mine] = pixels @ np.linalg.inv(lens).T @ scene.extrinsics[frame, :, :3]
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    across = np.eye(3) - rays[:, :, None] * rays[:, None, :]
    normal, wanted = np.zeros((len(points), 3, 3)), np.zeros((len(points), 3))
    np.add.at(normal, tracks.point, across)
    np.add.at(wanted, tracks.point, np.einsum("mij,mj->mi", across, centres[tracks.frame]))
    met = np.asarray(np.linalg.solve(normal + 1e-9 * np.eye(3), wanted[..., None])[..., 0], np.float64)
    return float(np.median(_errors(scene, met, tracks)))
