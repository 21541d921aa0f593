"""Weights of a block's outputs against the exact Jacobian of the whole model's answers."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from torch import Tensor, nn

from quantvggt.calibrate.importance import block_importance, squared_gradients
from quantvggt.calibrate.stream import Stream
from quantvggt.models import VGGT
from quantvggt.scenes.clip import Clip
from tiny import sane_model, tiny_clip

FRAMES, SIDE, TOKENS, CHANNELS = 2, 28, 9, 64


def small_clip(name: str = "clip") -> Clip:
    clip = tiny_clip(name, FRAMES)
    return Clip(clip.images[..., :SIDE, :SIDE].contiguous(), clip.names)


def answers(model: VGGT, images: Tensor, scales: list[np.ndarray] | None) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Unitless answers [B, n] of each task, and the scales they were divided by, from what the model really returns."""
    out = {name: value.double().numpy() for name, value in model(images).items()}
    pose, points = out["pose_enc"], out["world_points"]
    rotation = Rotation.from_quat(pose[..., 3:7].reshape(-1, 4)).as_matrix().reshape(*pose.shape[:2], 3, 3)
    between = np.einsum("biac,bjdc->bijad", rotation, rotation)
    moved = pose[:, :, None, :3] - np.einsum("bijac,bjc->bija", between, pose[..., :3])
    if scales is None:
        distance = np.linalg.norm(points, axis=-1, keepdims=True)
        middle = np.sort(distance.ravel())[(distance.size - 1) // 2]
        one = np.ones(1)
        scales = [one, np.sqrt((moved**2).mean()), one, out["depth"], np.maximum(distance, middle)]
    values = [between, moved, pose[..., 7:], out["depth"], points]
    return [(value / scale).reshape(len(images), -1) for value, scale in zip(values, scales, strict=True)], scales


def exact(model: VGGT, images: Tensor, block: str, places: list[int]) -> np.ndarray:
    """diag(J^T J) at `places` of the block's flattened output, by central differences."""
    step = 1e-4
    moves = torch.zeros(2 * len(places), FRAMES * TOKENS * CHANNELS, dtype=torch.float64)
    for row, place in enumerate(places):
        moves[2 * row, place], moves[2 * row + 1, place] = step, -step

    def nudge(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        return output + moves.view(output.shape)

    with torch.no_grad():
        _, scales = answers(model, images, None)
        handle = model.get_submodule(block).register_forward_hook(nudge)
        values, _ = answers(model, images.expand(len(moves), -1, -1, -1, -1), scales)
        handle.remove()
    return sum((((task[::2] - task[1::2]) / (2 * step)) ** 2).mean(1) for task in values)


@pytest.mark.parametrize(("block", "position"), [("aggregator.frame_blocks.1", 2), ("aggregator.global_blocks.0", 1)])
def test_squared_gradients_are_the_fisher_diagonal(block: str, position: int) -> None:
    model = sane_model().double()
    clip = small_clip()
    places = list(range(0, FRAMES * TOKENS * CHANNELS, 8))
    truth = exact(model, clip.images[None].double(), block, places).reshape(FRAMES * TOKENS, -1)

    generator = torch.Generator().manual_seed(0)
    found = squared_gradients(model, Stream.start(model.trunk, model, [clip]), 0, clip, generator, probes=150)[position]
    found = found.flatten()[places].view(FRAMES * TOKENS, -1).double().numpy()

    assert found.sum() == pytest.approx(truth.sum(), rel=0.1)
    if position == 1:  # later blocks leave out what no head reads
        assert truth.min() > 0
    large = truth.mean(1) > 1e-3 * truth.mean()
    assert large.sum() >= 2
    np.testing.assert_allclose(found.mean(1)[large], truth.mean(1)[large], rtol=0.3)
    assert np.corrcoef(found.ravel(), truth.ravel())[0, 1] > 0.97


def test_weights_fit_the_blocks_and_have_mean_one() -> None:
    model, clips = sane_model(), [small_clip("a"), small_clip("b")]
    found = block_importance(model, clips, progress=False, seed=3)
    assert list(found) == [f"aggregator.{kind}_blocks.{index}" for index in (0, 1) for kind in ("frame", "global")]
    for name, weights in found.items():
        shape = (FRAMES, TOKENS, CHANNELS) if "frame" in name else (1, FRAMES * TOKENS, CHANNELS)
        both = torch.stack([weights[0], weights[1]])
        assert both.shape == (2, *shape)
        assert both.mean().item() == pytest.approx(1, rel=1e-4)
        assert both.min() >= 0
    # Nothing reads the registers behind the last block, and the camera head reads the camera tokens.
    last = found["aggregator.global_blocks.1"][0].view(FRAMES, TOKENS, CHANNELS)
    assert last[:, 1:5].sum() == 0
    assert last[:, 0].min() > 0


def test_the_seed_decides_and_no_parameter_gets_a_gradient() -> None:
    model, clips = sane_model(), [small_clip()]

    def weights(seed: int) -> Tensor:
        return block_importance(model, clips, progress=False, seed=seed)["aggregator.frame_blocks.0"][0]

    assert torch.equal(weights(0), weights(0))
    assert not torch.equal(weights(0), weights(1))
    assert all(parameter.grad is None for parameter in model.parameters())
