"""Pose errors and AUC against the published numbers, SciPy's rotations and closed forms."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from quantvggt.core.errors import InputError
from quantvggt.evaluate.metrics.pose import auc, direction_angle, pose_errors, rotation_angle

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = json.loads((FOLDER / "pose_metrics.json").read_text())
RECORDED = json.loads((FOLDER / "datasets" / "relpose_scalars.json").read_text())
POSES = np.load(FOLDER / "datasets" / "relpose_inputs.npz")
FORMS = {"quantvggt": "a_first_aligned_inv_i_times_j", "vggt": "b_i_times_inv_j", "pi3": "c_j_times_inv_i"}
RNG = np.random.default_rng(5)


def cameras(frames, rng=RNG):
    rotation = Rotation.random(frames, random_state=rng).as_matrix()
    return np.concatenate([rotation, rng.normal(size=(frames, 3, 1))], axis=2)


def moved_world(extrinsics, rotation, shift, scale):
    """The same cameras after the world x became scale * rotation @ x + shift."""
    turned = extrinsics[:, :, :3] @ rotation.T
    return np.concatenate([turned, scale * extrinsics[:, :, 3:] - turned @ shift[:, None]], axis=2)


@pytest.mark.parametrize("sequence", GOLDEN["sequences"])
def test_every_pair_equals_the_published_evaluation(sequence):
    rotation, direction = pose_errors(sequence["pred_world_to_camera"], sequence["gt_world_to_camera"], "quantvggt")
    np.testing.assert_allclose(rotation, sequence["rotation_error_deg"], rtol=0, atol=1e-9)
    np.testing.assert_allclose(direction, sequence["translation_error_deg"], rtol=0, atol=1e-9)


def test_auc_equals_the_published_evaluation():
    errors = [pose_errors(s["pred_world_to_camera"], s["gt_world_to_camera"], "quantvggt") for s in GOLDEN["sequences"]]
    rotation, direction = (np.concatenate(kind) for kind in zip(*errors, strict=True))
    for threshold, published in GOLDEN["auc_all_pairs"].items():
        assert auc(rotation, direction, int(threshold)) == pytest.approx(published, abs=1e-12)


def recorded_sequence(number, form):
    return pose_errors(POSES[f"pred_w2c_{number}"][:, :3], POSES[f"gt_w2c_{number}"][:, :3], form)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("number", range(3))
def test_every_form_of_the_relative_pose_equals_its_published_evaluation(number, form):
    recorded = RECORDED[f"sequence_{number}"][FORMS[form]]
    rotation, direction = recorded_sequence(number, form)
    for ours, theirs in ((rotation, recorded["rot_deg"]), (direction, recorded["trans_deg"])):
        # Recorded in float32 by an arccosine, which loses what the sine of the angle lacks of 1.
        assert (np.abs(ours - theirs) * np.sin(np.radians(theirs)) < 2e-5).all()
    for threshold in (3, 5, 15, 30):
        assert auc(rotation, direction, threshold) == pytest.approx(recorded[f"auc{threshold}"], abs=1e-12)


def test_the_true_relative_pose_is_the_default():
    poses = POSES["pred_w2c_0"][:, :3], POSES["gt_w2c_0"][:, :3]
    np.testing.assert_array_equal(pose_errors(*poses), pose_errors(*poses, "vggt"))


def test_relative_poses_take_one_camera_to_the_other():
    # Only the second of three cameras turns about itself, by 2 degrees: it is in two of the three pairs.
    truth = cameras(3)
    turned = truth.copy()
    turned[1] = Rotation.from_euler("y", 2, degrees=True).as_matrix() @ truth[1]
    for form in ("vggt", "pi3"):
        np.testing.assert_allclose(pose_errors(turned, truth, form)[0], [2, 0, 2], atol=1e-9)
    # The line between two cameras is seen from the first of a pair in one form, from the second in the other.
    np.testing.assert_allclose(pose_errors(turned, truth, "vggt")[1][0], 0, atol=1e-9)
    assert pose_errors(turned, truth, "vggt")[1][2] > 0.1
    assert pose_errors(turned, truth, "pi3")[1][0] > 0.1
    np.testing.assert_allclose(pose_errors(turned, truth, "pi3")[1][2], 0, atol=1e-9)


def test_an_unknown_form_is_refused():
    with pytest.raises(InputError, match="'colmap'; use one of: vggt, quantvggt, pi3"):
        pose_errors(cameras(3), cameras(3), "colmap")


def test_auc_counts_edges_as_published():
    edges = RECORDED["auc_edge_cases"]
    errors = edges["max_error_deg"]
    for threshold in (3, 5, 30):
        assert auc(errors, np.zeros(len(errors)), threshold) == pytest.approx(edges[f"auc{threshold}"], abs=1e-12)


def test_auc_follows_its_closed_form():
    # Errors 0.5 and 2.5 of four pairs: the curve over 1, 2, 3 degrees is 1/4, 1/4, 2/4.
    assert auc([0.5, 1.0, 90.0, 40.0], [0.1, 2.5, 0.0, 50.0], 3) == pytest.approx((1 + 1 + 2) / 12)
    assert auc([0.0], [0.0], 30) == 1.0
    assert auc([31.0], [0.0], 30) == 0.0


@pytest.mark.parametrize("degrees", [0.0, 1e-9, 1e-4, 1.0, 45.0, 90.0, 135.0, 179.0, 180.0 - 1e-9, 180.0])
def test_rotation_angle_is_exact_from_0_to_180(degrees):
    axis = RNG.normal(size=(64, 3))
    axis /= np.linalg.norm(axis, axis=1, keepdims=True)
    start = Rotation.random(64, random_state=RNG)
    turned = start * Rotation.from_rotvec(np.radians(degrees) * axis)
    np.testing.assert_allclose(rotation_angle(start.as_matrix(), turned.as_matrix()), degrees, rtol=0, atol=1e-12)


def test_rotation_angle_equals_scipy():
    a, b = Rotation.random(500, random_state=RNG), Rotation.random(500, random_state=RNG)
    expected = np.degrees((a.inv() * b).magnitude())
    np.testing.assert_allclose(rotation_angle(a.as_matrix(), b.as_matrix()), expected, atol=1e-10)


def test_direction_is_a_line_without_sign():
    x = np.array([1.0, 0.0, 0.0])
    for degrees, expected in [(0, 0), (30, 30), (90, 90), (150, 30), (180, 0)]:
        angle = np.radians(degrees)
        b = 7 * np.array([np.cos(angle), np.sin(angle), 0])
        assert direction_angle(x, b) == pytest.approx(expected, abs=1e-12)
    assert direction_angle(x, np.zeros(3)) == 90.0


@pytest.mark.parametrize("form", FORMS)
def test_identical_sequences_have_no_error(form):
    poses = cameras(6)
    rotation, direction = pose_errors(poses, poses, form)
    assert len(rotation) == 15
    assert max(rotation.max(), direction.max()) < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_moving_or_scaling_either_world_changes_nothing(form):
    predicted, truth = cameras(5), cameras(5)
    expected = pose_errors(predicted, truth, form)
    turn = Rotation.random(random_state=RNG).as_matrix()
    for actual in (
        pose_errors(moved_world(predicted, turn, np.array([3.0, -1.0, 2.0]), 4.0), truth, form),
        pose_errors(predicted, moved_world(truth, turn, np.array([-2.0, 0.5, 9.0]), 0.1), form),
    ):
        np.testing.assert_allclose(actual, expected, atol=1e-9)


@pytest.mark.parametrize("form", FORMS)
def test_a_pose_that_is_not_finite_counts_as_the_worst(form):
    truth = cameras(4)
    broken = truth.copy()
    broken[2, 0, 0], broken[2, 1, 3] = np.nan, np.inf
    rotation, direction = pose_errors(broken, truth, form)
    touched = np.array([2 in pair for pair in zip(*np.triu_indices(4, 1), strict=True)])
    assert (rotation[touched] == 180).all()
    assert (direction[touched] == 90).all()
    assert max(rotation[~touched].max(), direction[~touched].max()) < 1e-12


@pytest.mark.parametrize(("predicted", "truth"), [(cameras(3), cameras(4)), (cameras(1), cameras(1))])
def test_sequences_without_pairs_or_of_two_lengths_are_refused(predicted, truth):
    with pytest.raises(InputError, match="S >= 2"):
        pose_errors(predicted, truth)
