"""ATE and RPE against the recorded outputs of published evaluations, evo itself and closed forms."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from quantvggt.core.errors import InputError
from quantvggt.evaluate.metrics.trajectory import trajectory_errors

FOLDER = Path(__file__).parents[1] / "golden" / "datasets"
RECORDED = json.loads((FOLDER / "trajectory_scalars.json").read_text())
ARRAYS = np.load(FOLDER / "trajectories.npz")
RNG = np.random.default_rng(23)


def world_to_camera(poses):
    return np.linalg.inv(poses)[:, :3]


def walk(frames):
    """Camera-to-world [S, 4, 4] along a random walk."""
    poses = np.tile(np.eye(4), (frames, 1, 1))
    poses[:, :3, :3] = Rotation.random(frames, random_state=RNG).as_matrix()
    poses[:, :3, 3] = RNG.normal(size=(frames, 3)).cumsum(0)
    return poses


def moved(poses):
    """The same trajectory in another world frame and unit."""
    turn = Rotation.random(random_state=RNG).as_matrix()
    other = poses.copy()
    other[:, :3, :3] = turn @ poses[:, :3, :3]
    other[:, :3, 3] = 0.3 * poses[:, :3, 3] @ turn.T + [1, 2, 3]
    return other


@pytest.mark.parametrize("number", [1, 2])
def test_errors_equal_the_published_evaluation(number):
    recorded = RECORDED[f"traj{number}_equal_length"]
    errors = trajectory_errors(*(world_to_camera(ARRAYS[f"{kind}{number}_c2w"]) for kind in ("pred", "gt")))
    assert errors.ate == pytest.approx(recorded["ate_rmse"], abs=1e-7)
    assert errors.rpe_translation == pytest.approx(recorded["rpe_trans_rmse"], abs=1e-7)
    assert errors.rpe_rotation_deg == pytest.approx(recorded["rpe_rot_deg_rmse"], abs=1e-5)


def test_errors_equal_evo():
    from evo import main_ape, main_rpe
    from evo.core.metrics import PoseRelation, Unit
    from evo.core.trajectory import PosePath3D

    truth = walk(25)
    predicted = moved(truth)
    predicted[:, :3, 3] += 0.05 * RNG.normal(size=(25, 3))
    predicted[:, :3, :3] = Rotation.from_rotvec(0.05 * RNG.normal(size=(25, 3))).as_matrix() @ predicted[:, :3, :3]
    paths = PosePath3D(poses_se3=list(truth)), PosePath3D(poses_se3=list(predicted))

    def rpe(relation):
        settings = {"delta": 1, "delta_unit": Unit.frames, "all_pairs": True, "align": True, "correct_scale": True}
        return main_rpe.rpe(*copy.deepcopy(paths), relation, **settings).stats["rmse"]

    ape = main_ape.ape(*copy.deepcopy(paths), PoseRelation.translation_part, align=True, correct_scale=True)
    expected = ape.stats["rmse"], rpe(PoseRelation.translation_part), rpe(PoseRelation.rotation_angle_deg)
    assert trajectory_errors(world_to_camera(predicted), world_to_camera(truth)) == pytest.approx(expected, rel=1e-9)


def test_another_world_frame_and_unit_change_nothing():
    truth = walk(9)
    assert max(trajectory_errors(world_to_camera(moved(truth)), world_to_camera(truth))) < 1e-9


def test_a_turned_camera_is_in_two_motions_and_in_no_position():
    truth = walk(9)
    turned = truth.copy()
    turned[4, :3, :3] = truth[4, :3, :3] @ Rotation.from_euler("z", 3, degrees=True).as_matrix()
    errors = trajectory_errors(world_to_camera(turned), world_to_camera(truth))
    assert errors.ate < 1e-9
    assert errors.rpe_rotation_deg == pytest.approx(np.sqrt(2 * 3**2 / 8))


def test_cameras_in_one_place_and_poses_that_are_not_finite_count_as_the_worst():
    truth = walk(7)
    spread = np.sqrt(((truth[:, :3, 3] - truth[:, :3, 3].mean(0)) ** 2).sum(1).mean())
    still = np.tile(np.eye(3, 4), (7, 1, 1))
    assert trajectory_errors(still, world_to_camera(truth)).ate == pytest.approx(spread)
    unknown = trajectory_errors(np.full((7, 3, 4), np.nan), world_to_camera(truth))
    assert unknown.ate == pytest.approx(spread)
    assert unknown.rpe_rotation_deg == 180
    assert np.isfinite(unknown).all()


def test_trajectories_of_two_lengths_are_refused():
    with pytest.raises(InputError, match="equal S >= 2"):
        trajectory_errors(np.zeros((3, 3, 4)), np.zeros((4, 3, 4)))
