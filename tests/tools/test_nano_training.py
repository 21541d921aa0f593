"""The nano trainer's geometry and losses, against the evaluation's own formulas and the renderer's truth."""

import sys
from pathlib import Path

import numpy as np
import torch

from quantvggt.evaluate.metrics.pose import pose_errors
from quantvggt.models.pose import encode_pose

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from nano.attention import attention
from nano.data import batch_of
from nano.geometry import add_targets, pair_errors, rotation_of
from nano.losses import dense_loss, pose_loss
from train_nano import schedule


def small_turns(count: int, degrees: float) -> torch.Tensor:
    """Random rotations of at most about `degrees`: [count, 3, 3] from quaternions."""
    axis = torch.randn(count, 3, generator=torch.Generator().manual_seed(1))
    return rotation_of(torch.cat([axis * np.radians(degrees) / 4, torch.ones(count, 1)], -1))


def test_relative_pose_loss_measures_what_the_evaluation_measures() -> None:
    batch = add_targets(batch_of([7], 5))
    turn = small_turns(5, 10.0)
    rotation = turn @ batch["poses"][0, :, :, :3]
    translation = batch["poses"][0, :, :, 3] + 0.05 * torch.randn(5, 3, generator=torch.Generator().manual_seed(2))
    rotation[0], translation[0] = torch.eye(3), 0.0  # as the evaluation sees them: from the first camera
    predicted = torch.cat([rotation, translation[..., None]], -1)
    expected_turn, expected_heading = pose_errors(predicted.numpy(), batch["poses"][0].numpy(), "quantvggt")
    found_turn, found_heading = pair_errors(rotation[None], translation[None], batch["poses"])
    assert expected_turn.max() > 2
    np.testing.assert_allclose(found_turn[0].rad2deg().numpy(), expected_turn, atol=0.02)
    np.testing.assert_allclose(found_heading[0].rad2deg().numpy(), expected_heading, atol=0.02)


def test_targets_are_in_the_first_camera_with_unit_mean_distance() -> None:
    batch = add_targets(batch_of([3, 4], 3))
    identity = torch.eye(3, 4).expand(2, 3, 4)
    torch.testing.assert_close(batch["poses"][:, 0], identity, atol=1e-5, rtol=0)
    distance = batch["points"].norm(dim=-1)
    for scene in range(2):
        assert abs(distance[scene][batch["valid"][scene]].mean() - 1) < 1e-4
    # In its own first camera a point's third coordinate is its depth.
    depth = batch["scaled_depth"][:, 0]
    torch.testing.assert_close(batch["points"][:, 0, ..., 2] * (depth > 0), depth, atol=1e-5, rtol=1e-5)


def test_the_truth_has_no_pose_loss_whatever_the_quaternions_sign() -> None:
    batch = add_targets(batch_of([5], 4))
    truth = encode_pose(batch["poses"], batch["intrinsics"], 112, 112)
    flipped = torch.cat([truth[..., :3], -truth[..., 3:7], truth[..., 7:]], -1)
    for value in pose_loss([truth, flipped], batch).values():
        assert value < 1e-3


def test_dense_loss_ignores_values_where_nothing_is() -> None:
    target, valid = torch.rand(2, 8, 8, 3), torch.rand(2, 8, 8) > 0.3
    value = torch.where(valid[..., None], target + 0.1, torch.full_like(target, 50.0))
    confidence = torch.full((2, 8, 8), 1.0)
    found = dense_loss(value, confidence, target, valid)
    torch.testing.assert_close(found, torch.tensor(0.1 * 3**0.5), atol=1e-4, rtol=0)


def test_plain_attention_is_attention() -> None:
    q, k, v = torch.randn(3, 2, 4, 9, 8, generator=torch.Generator().manual_seed(3))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(attention(q, k, v), expected)


def test_the_learning_rate_rises_and_ends_at_zero() -> None:
    assert schedule(0.0) < 0.01
    assert schedule(0.1) == 1
    assert 0 < schedule(0.9) < 0.2
    assert schedule(1.0) == 0
