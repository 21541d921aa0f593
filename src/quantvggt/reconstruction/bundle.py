"""What bundle adjustments share: where tracks don't fit cameras, which of them judge, pycolmap's solver."""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.errors import InputError
from quantvggt.core.similarity import Similarity, umeyama
from quantvggt.reconstruction.geometry import camera_centres, project
from quantvggt.reconstruction.points import Tracks

Float = NDArray[np.float64]

HELD_OUT = 5
"""Every so manyth track judges the result and takes no part in it."""
GAIN = 0.8
"""Their error must fall to this share at least: less may be chance."""
FEWEST_IN_FRAME = 8
"""A frame with fewer observations has no camera of its own from them."""
WORST_ERROR = 0.05
"""Observations off by more than this share of the diagonal are mismatches."""


class Cameras(Protocol):
    """S of them: extrinsics [S, 3, 4], world-to-camera; intrinsics [S, 3, 3], of pictures of size (height, width)."""

    @property
    def extrinsics(self) -> NDArray[np.floating]: ...
    @property
    def intrinsics(self) -> NDArray[np.floating]: ...
    @property
    def size(self) -> tuple[int, int]: ...


class Unrefined(Exception):
    """Why not."""


@dataclass(frozen=True)
class Verdict:
    """reason: why nothing was changed, None if it was. before, after: median reprojection error, in pixels of the
    frames, on tracks that the adjustment was not shown (None where it didn't come so far)."""

    reason: str | None
    tracks: int
    seconds: float
    before: float | None
    after: float | None

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


def summary(record: dict[str, Any]) -> str:
    """A verdict's record in one line for people."""
    if not record["applied"]:
        return f"not refined: {record['reason']}; the scene is as the model says"
    error = f"error {record['error_before']:.2f} -> {record['error_after']:.2f} px"
    return f"refined with {record['tracks']} tracks in {record['seconds']:.1f} s: {error}"


def require_pycolmap() -> None:
    """Raises InputError unless pycolmap is installed."""
    if find_spec("pycolmap") is None:
        raise InputError("refining needs pycolmap; pip install 'quantvggt[refine]', or leave --refine out")


def diagonal(cameras: Cameras) -> float:
    """Of the pictures, in pixels."""
    return float(np.hypot(*cameras.size))


def plausible(cameras: Cameras, points: Float, tracks: Tracks) -> tuple[Float, Tracks]:
    """Without observations that are far from where the cameras have them, and without points of one observation."""
    return kept(points, tracks, errors(cameras, points, tracks) <= WORST_ERROR * diagonal(cameras))


def kept(points: Float, tracks: Tracks, good: NDArray[np.bool_]) -> tuple[Float, Tracks]:
    """These observations of points that have two of them."""
    lengths = np.bincount(tracks.point[good], minlength=len(points))
    good = good & (lengths[tracks.point] > 1)
    number = np.cumsum(lengths > 1) - 1
    return points[lengths > 1], Tracks(number[tracks.point[good]], tracks.frame[good], tracks.xy[good])


def split(points: Float, tracks: Tracks) -> tuple[tuple[Float, Tracks], tuple[Float, Tracks]]:
    """For the adjustment, and for judging it."""
    judging = np.arange(len(points)) % HELD_OUT == 0
    return kept(points, tracks, ~judging[tracks.point]), kept(points, tracks, judging[tracks.point])


def errors(cameras: Cameras, points: Float, tracks: Tracks) -> Float:
    """How far from its observation each point is seen [M], in pixels; infinite behind a camera."""
    found = np.full(len(tracks), np.inf)
    for frame, mine in by_frame(tracks):
        xy, z = project(points[tracks.point[mine]], cameras.extrinsics[frame], cameras.intrinsics[frame])
        found[mine] = np.where(z > 0, np.linalg.norm(xy - tracks.xy[mine], axis=-1), np.inf)
    return found


def by_frame(tracks: Tracks) -> list[tuple[int, NDArray[np.intp]]]:
    """The observations of each frame that has some, in their order."""
    order = np.argsort(tracks.frame, kind="stable")
    frames, first = np.unique(tracks.frame[order], return_index=True)
    return list(zip(frames.tolist(), np.split(order, first[1:]), strict=True)) if len(frames) else []


def meet(cameras: Cameras, tracks: Tracks, count: int) -> Float:
    """Each of `count` points where the rays of its observations meet best [N, 3]."""
    rays = np.empty((len(tracks), 3))
    centres = camera_centres(cameras.extrinsics)
    for frame, mine in by_frame(tracks):
        lens = cameras.intrinsics[frame].astype(np.float64)
        pixels = np.column_stack([tracks.xy[mine], np.ones(len(mine))])
        rays[mine] = pixels @ np.linalg.inv(lens).T @ cameras.extrinsics[frame, :, :3]
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    across = np.eye(3) - rays[:, :, None] * rays[:, None, :]
    normal, wanted = np.zeros((count, 3, 3)), np.zeros((count, 3))
    np.add.at(normal, tracks.point, across)
    np.add.at(wanted, tracks.point, np.einsum("mij,mj->mi", across, centres[tracks.frame]))
    return np.asarray(np.linalg.solve(normal + 1e-9 * np.eye(3), wanted[..., None])[..., 0], np.float64)


def judge(cameras: Cameras, points: Float, tracks: Tracks) -> float:
    """Median error of tracks, each point put where the rays of its observations meet best."""
    return float(np.median(errors(cameras, meet(cameras, tracks, len(points)), tracks)))


def similarity(source: Float, target: Float) -> Similarity:
    """The one that brings most of `source` to `target`: least squares, the worst tenth left aside."""
    motion = umeyama(source, target)
    left = np.linalg.norm(motion.apply(source) - target, axis=1)
    near = left <= np.quantile(left, 0.9)
    return umeyama(source[near], target[near])


def in_world(extrinsics: NDArray[np.floating], motion: Similarity) -> Float:
    """Cameras [S, 3, 4] where `motion` takes what they see."""
    rotation = extrinsics[:, :, :3].astype(np.float64) @ motion.rotation.T
    translation = motion.scale * extrinsics[:, :, 3] - np.einsum("sij,j->si", rotation, motion.translation)
    return np.concatenate([rotation, translation[:, :, None]], axis=2)


def adjust(model: Any, config: Any, loss_scale: float, lens: bool) -> None:
    """Solve a pycolmap problem in place: cameras and points, and focal lengths if `lens`.

    Errors beyond `loss_scale` pixels count less and less (Cauchy). Raises Unrefined if that fails.
    """
    import pycolmap

    options = pycolmap.BundleAdjustmentOptions()
    options.refine_focal_length = lens
    options.refine_principal_point = options.refine_extra_params = False
    options.refine_sensor_from_rig = options.print_summary = False
    options.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    options.ceres.loss_function_scale = loss_scale
    level, pycolmap.logging.minloglevel = pycolmap.logging.minloglevel, pycolmap.logging.Level.ERROR.value
    try:
        done = pycolmap.create_default_bundle_adjuster(options, config, model).solve()
    except Exception as error:  # it raises whatever Ceres stumbles over
        raise Unrefined(f"the adjustment failed ({error})") from error
    finally:
        pycolmap.logging.minloglevel = level
    if not done.is_solution_usable():
        raise Unrefined("the adjustment diverged")
