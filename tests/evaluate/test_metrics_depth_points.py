"""Depth and point errors against closed forms, invariances and an independent least-squares search."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.spatial.transform import Rotation

from quantvggt.core.errors import InputError
from quantvggt.evaluate.metrics.alignment import lower_median, umeyama
from quantvggt.evaluate.metrics.depth import depth_errors
from quantvggt.evaluate.metrics.points import point_errors

RNG = np.random.default_rng(11)
FOLDER = Path(__file__).parents[1] / "golden" / "datasets"
RECORDED = json.loads((FOLDER / "depth_scalars.json").read_text(encoding="utf-8"))
DEPTHS = np.load(FOLDER / "depth_inputs.npz")


def truth_depth():
    depth = RNG.uniform(1, 5, (3, 6, 7))
    depth[:, :2] = 0  # sky
    return depth


def test_depth_error_is_zero_for_any_scale_and_ignores_the_sky():
    truth = truth_depth()
    predicted = np.where(truth > 0, 3.7 * truth, RNG.uniform(0, 100, truth.shape))
    error = depth_errors(predicted, truth)
    assert error.absrel == pytest.approx(0, abs=1e-12)
    assert error.delta1 == 1.0


def test_depth_error_follows_its_closed_form():
    truth = np.array([1.0, 2.0, 4.0, 8.0, 16.0]).reshape(1, 1, 5)
    predicted = np.array([1.1, 1.8, 4.0, 10.4, 16.0]).reshape(1, 1, 5)  # the medians agree: 4
    error = depth_errors(predicted, truth)
    assert error.absrel == pytest.approx((0.1 + 0.1 + 0 + 0.3 + 0) / 5)
    assert error.delta1 == pytest.approx(4 / 5)


def test_the_depth_scale_is_one_per_clip():
    truth = np.stack([np.full((4, 4), 2.0), np.full((4, 4), 2.0), np.full((4, 4), 2.0)])
    predicted = truth * np.array([1.0, 1.0, 1.5])[:, None, None]
    assert depth_errors(predicted, truth).absrel == pytest.approx(0.5 / 3)


def test_unusable_predicted_depth_counts_as_a_full_error():
    truth = np.full((1, 1, 5), 2.0)
    predicted = np.array([[[2.0, 2.0, 2.0, np.nan, -3.0]]])
    assert depth_errors(predicted, truth).absrel == pytest.approx(2 / 5)
    assert depth_errors(np.full((1, 1, 5), np.inf), truth).absrel == 1.0


NAMES = {"absrel": "Abs Rel", "sqrel": "Sq Rel", "rmse": "RMSE", "log_rmse": "Log RMSE", "delta1": "δ < 1.25"}


@pytest.mark.parametrize(
    ("case", "inputs", "far", "clip"),
    [("A_max70_postclip70", "A", 70, 70), ("A_max70", "A", 70, None), ("B_nomax", "B", np.inf, None)],
)
@pytest.mark.parametrize(
    ("alignment", "recorded", "tolerance"),
    [
        ("none", "metric", 1e-6),
        ("lower-median", "median_scale", 1e-6),
        ("least-squares", "lstsq_scale_shift", 1e-5),
        ("adam", "lad2_adam_lr1e-4", 1e-4),
        # Ten rounds of reweighting don't converge, so the published float32 and our float64 end 5e-5 apart in scale.
        ("l1", "l1_scale_irls", 3e-4),
    ],
)
def test_depth_errors_equal_the_published_evaluation(case, inputs, far, clip, alignment, recorded, tolerance):
    truth = DEPTHS[f"gt_{inputs}"]
    errors = depth_errors(DEPTHS[f"pred_{inputs}"], truth, truth < far, alignment, clip)
    assert errors.pixels == RECORDED[case][recorded]["valid_pixels"]
    for ours, theirs in NAMES.items():
        assert getattr(errors, ours) == pytest.approx(RECORDED[case][recorded][theirs], rel=tolerance), ours


def test_the_published_l1_scale_is_ours_in_float32():
    # The recorded scale comes out of the same ten rounds in PyTorch's float32: what differs is rounding.
    truth, depth = DEPTHS["gt_A"], DEPTHS["pred_A"]
    valid = (truth > 0) & (truth < 70)
    truth, depth = torch.tensor(truth[valid]), torch.tensor(depth[valid])
    scale = truth.mean() / depth.mean()
    for _ in range(10):
        weight = 1 / ((scale * depth - truth).abs() + 1e-8)
        scale = (weight * depth * truth).sum() / (weight * depth**2).sum()
    assert float(scale) == pytest.approx(RECORDED["A_max70"]["l1_scale_irls"]["scale_fitted_from_output"], rel=5e-5)


def test_the_two_medians_are_the_recorded_ones():
    medians, truth = RECORDED["A_max70"]["_medians"], DEPTHS["gt_A"]
    valid = truth[(truth > 0) & (truth < 70)]
    assert float(lower_median(valid)) == pytest.approx(medians["torch_median_gt"], rel=1e-7)
    assert float(np.median(valid)) == pytest.approx(medians["numpy_median_gt"], rel=1e-7)


@pytest.mark.parametrize("alignment", ["median", "lower-median", "l1", "least-squares"])
def test_alignments_find_an_exact_scale(alignment):
    truth = truth_depth()
    errors = depth_errors(0.4 * truth, truth, alignment=alignment)
    assert errors[:4] == pytest.approx((0, 0, 0, 0), abs=1e-6)
    assert errors.delta1 == 1


def test_least_squares_finds_an_exact_shift_and_nothing_is_aligned_by_none():
    truth = truth_depth()
    assert depth_errors(np.where(truth > 0, 2 * truth + 1, 0), truth, alignment="least-squares").rmse < 1e-12
    plain = depth_errors(1.1 * truth, truth, alignment="none")
    assert (plain.absrel, plain.log_rmse) == pytest.approx((0.1, np.log(1.1)))


def test_only_valid_pixels_count():
    truth, valid = truth_depth(), RNG.uniform(size=(3, 6, 7)) < 0.5
    predicted = np.where(valid, truth, RNG.uniform(0, 100, truth.shape))
    assert depth_errors(predicted, truth, valid, "none").absrel == 0


@pytest.mark.parametrize("alignment", ["median", "lower-median", "l1", "adam", "least-squares", "none"])
def test_a_prediction_of_nothing_stays_finite(alignment):
    truth = np.full((2, 3, 4), 2.0)
    for nothing in (np.nan, np.inf, -1.0, 0.0):
        assert np.isfinite(depth_errors(np.full(truth.shape, nothing), truth, alignment=alignment)).all()


def test_depth_without_truth_is_refused():
    with pytest.raises(InputError, match="no pixel above 0"):
        depth_errors(np.ones((1, 2, 2)), np.zeros((1, 2, 2)))
    with pytest.raises(InputError, match="shape"):
        depth_errors(np.ones((1, 2, 2)), np.ones((2, 2, 2)))


@pytest.mark.parametrize("seed", range(4))
def test_umeyama_recovers_a_known_similarity(seed):
    rng = np.random.default_rng(seed)
    source = rng.normal(size=(50, 3))
    rotation, shift = Rotation.random(random_state=rng).as_matrix(), rng.normal(size=3)
    found = umeyama(source, 2.5 * source @ rotation.T + shift)
    assert found.scale == pytest.approx(2.5)
    np.testing.assert_allclose(found.rotation, rotation, atol=1e-12)
    np.testing.assert_allclose(found.translation, shift, atol=1e-12)


@pytest.mark.parametrize("mirrored", [False, True])
def test_umeyama_is_the_least_squares_optimum(mirrored):
    source = RNG.normal(size=(40, 3))
    target = source * [1, 1, -1] if mirrored else source @ Rotation.random(random_state=RNG).as_matrix()
    target = target + 0.3 * RNG.normal(size=target.shape)
    weights = RNG.uniform(0, 2, 40)

    def loss(parameters):
        moved = np.exp(parameters[0]) * Rotation.from_rotvec(parameters[1:4]).apply(source) + parameters[4:]
        return weights @ ((moved - target) ** 2).sum(1)

    found = umeyama(source, target, weights)
    assert np.linalg.det(found.rotation) == pytest.approx(1)
    reached = weights @ ((found.apply(source) - target) ** 2).sum(1)
    starts = np.concatenate([np.zeros((6, 1)), Rotation.random(6, random_state=RNG).as_rotvec(), np.zeros((6, 3))], 1)
    assert reached == pytest.approx(min(minimize(loss, start).fun for start in starts), rel=1e-6)


def test_a_source_without_extent_lands_on_the_mean():
    target = RNG.normal(size=(9, 3))
    moved = umeyama(np.ones((9, 3)), target).apply(np.ones((9, 3)))
    np.testing.assert_allclose(moved, np.tile(target.mean(0), (9, 1)), atol=1e-12)


def test_unusable_alignments_are_refused():
    with pytest.raises(InputError, match="one size"):
        umeyama(np.zeros((3, 3)), np.zeros((4, 3)))
    with pytest.raises(InputError, match="weights"):
        umeyama(np.zeros((3, 3)), np.zeros((3, 3)), np.zeros(3))


def test_point_error_ignores_the_world_frame_and_masked_pixels():
    truth = RNG.normal(size=(2, 5, 6, 3), loc=[0, 0, 4])
    valid = RNG.uniform(size=(2, 5, 6)) < 0.7
    turn = Rotation.random(random_state=RNG).as_matrix()
    predicted = 0.2 * truth @ turn.T + [1, 2, 3]
    predicted[~valid] = 1e6
    assert point_errors(predicted, truth, valid, np.zeros(3)) == pytest.approx((0, 0, 0), abs=1e-12)


def test_point_error_is_relative_to_the_viewing_distance():
    truth = RNG.normal(size=(1, 40, 50, 3))
    noise = 0.01 * RNG.normal(size=truth.shape)
    valid = np.ones((1, 40, 50), bool)
    origin = np.array([0.0, 0.0, -10.0])
    # Noise this small moves the fitted similarity by far less than itself, so the mean is that of the noise.
    expected = np.linalg.norm(noise, axis=-1).mean() / np.linalg.norm(truth - origin, axis=-1).mean()
    assert point_errors(truth + noise, truth, valid, origin).error == pytest.approx(expected, rel=0.01)
    assert point_errors(3 * (truth + noise), truth, valid, origin).error == pytest.approx(expected, rel=0.01)


def test_points_that_are_not_finite_keep_the_error_finite():
    truth = RNG.normal(size=(1, 4, 4, 3))
    valid = np.ones((1, 4, 4), bool)
    assert np.isfinite(point_errors(np.full_like(truth, np.nan), truth, valid, np.zeros(3))).all()
    with pytest.raises(InputError, match="no pixel"):
        point_errors(truth, truth, ~valid, np.zeros(3))


def test_accuracy_and_completeness_equal_brute_force():
    truth = RNG.normal(size=(2, 9, 10, 3), loc=[0, 0, 5])
    valid = RNG.uniform(size=(2, 9, 10)) < 0.8
    predicted = truth + 0.4 * RNG.normal(size=truth.shape)
    predicted[0, 0, 0] = np.inf
    found = point_errors(predicted, truth, valid, np.zeros(3))

    target, source = truth[valid], np.nan_to_num(predicted, posinf=0)[valid]
    moved = umeyama(source, target).apply(source)
    distances = np.linalg.norm(moved[:, None] - target[None], axis=-1)
    unit = np.linalg.norm(target, axis=1).mean()
    assert found.accuracy == pytest.approx(distances.min(1).mean() / unit)
    assert found.completeness == pytest.approx(distances.min(0).mean() / unit)
    assert found.error == pytest.approx(distances.diagonal().mean() / unit)


def test_a_sample_of_the_points_stands_for_all():
    truth = RNG.uniform(size=(1, 60, 60, 3))
    predicted = truth + 0.1 * RNG.normal(size=truth.shape)
    valid = np.ones((1, 60, 60), bool)
    few = point_errors(predicted, truth, valid, np.zeros(3), queries=800)
    every = point_errors(predicted, truth, valid, np.zeros(3), queries=3600)
    assert few == point_errors(predicted, truth, valid, np.zeros(3), queries=800)
    assert few == pytest.approx(every, rel=0.05)
