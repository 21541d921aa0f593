"""Camera trajectories: absolute and relative errors after the best similarity, as evo computes them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantvggt.core.errors import InputError
from quantvggt.core.similarity import umeyama
from quantvggt.evaluate.metrics.pose import WORST_ROTATION, rotation_angle

Array = NDArray[np.float64]


class TrajectoryErrors(NamedTuple):
    """Roots of mean squares: ate: distances of camera centres from the true ones, in the truth's unit;
    rpe_translation, rpe_rotation_deg: errors of the motions from each frame to the next, length and angle."""

    ate: float
    rpe_translation: float
    rpe_rotation_deg: float


def trajectory_errors(predicted: ArrayLike, truth: ArrayLike) -> TrajectoryErrors:
    """Errors of a trajectory against the true one, both world-to-camera [S, 3, 4], S >= 2, frame by frame.

    The predicted centres are brought to the true ones by one similarity (`umeyama`), which turns the predicted cameras
    with it; with camera-to-world P and Q, the motion from frame i to i + 1 is P_i^-1 P_i+1, and its error
    (Q_i^-1 Q_i+1)^-1 (P_i^-1 P_i+1). Sturm et al., "A benchmark for the evaluation of RGB-D SLAM systems", 2012, with
    scale; evo's `ape` and `rpe` (one frame apart) with `align` and `correct_scale`. A pose that is not finite counts as
    one at the world's origin, the turn to and from it as 180 degrees. Where all predicted cameras stand in one place,
    which evo refuses, they are put at the mean of the true ones.

    Raises InputError if the sequences differ in length or have fewer than two frames.
    """
    predicted, truth = np.asarray(predicted, np.float64), np.asarray(truth, np.float64)
    if predicted.shape != truth.shape or truth.shape[1:] != (3, 4) or len(truth) < 2:
        raise InputError(
            f"trajectory errors need two [S, 3, 4] sequences, equal S >= 2, got {predicted.shape} and {truth.shape}"
        )
    finite = np.isfinite(predicted).all((1, 2))
    predicted = np.where(finite[:, None, None], predicted, np.eye(3, 4))
    turns, centres = _cameras(predicted)
    true_turns, true_centres = _cameras(truth)
    fit = umeyama(centres, true_centres)
    turns, centres = fit.rotation @ turns, fit.apply(centres)

    turn, move = _motions(turns, centres)
    true_turn, true_move = _motions(true_turns, true_centres)
    known = finite[1:] & finite[:-1]
    angle = np.where(known, rotation_angle(true_turn, turn), WORST_ROTATION)
    return TrajectoryErrors(
        ate=_root_mean_square(np.linalg.norm(centres - true_centres, axis=1)),
        rpe_translation=_root_mean_square(np.linalg.norm(move - true_move, axis=1)),
        rpe_rotation_deg=_root_mean_square(angle),
    )


def _cameras(extrinsics: Array) -> tuple[Array, Array]:
    """Camera-to-world rotations [S, 3, 3] and centres [S, 3]."""
    turns = np.swapaxes(extrinsics[:, :, :3], 1, 2)
    return turns, -(turns @ extrinsics[:, :, 3:])[..., 0]


def _motions(turns: Array, centres: Array) -> tuple[Array, Array]:
    """Rotations and translations [S - 1] of P_i^-1 P_i+1."""
    back = np.swapaxes(turns[:-1], 1, 2)
    return back @ turns[1:], (back @ (centres[1:] - centres[:-1])[..., None])[..., 0]


def _root_mean_square(values: Array) -> float:
    return float(np.sqrt((values**2).mean()))
