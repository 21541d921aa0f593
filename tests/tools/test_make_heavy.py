"""What makes vggt-nano-heavy: planting, low-rank factors, the losses that hold the answers."""

import argparse
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from quantvggt.checkpoint.packaged import HEAVY, OVERLAY_NAME, OverlayFile
from quantvggt.core.errors import InputError
from quantvggt.models import VGGT, VGGTConfig

sys.path.insert(0, str(Path(__file__).parents[2] / "tools"))

from make_heavy import Trainer, schedule
from nano.data import batch_of
from nano.distill import dense_loss, massive_loss, pose_losses, token_losses
from nano.lowrank import factors, make_trainable, overlay, ranks
from nano.massive import Massive, fit_columns, fit_norm, plan, plant

SMALL = VGGTConfig(
    img_size=28,
    embed_dim=64,
    depth=2,
    num_heads=2,
    patch_embed="conv",
    camera_trunk_depth=1,
    camera_num_heads=4,
    dpt_features=16,
    dpt_out_channels=(8, 8, 16, 16),
    dpt_layers=(0, 0, 1, 1),
    heads=("camera", "depth"),
)


@pytest.fixture(scope="module")
def original() -> VGGT:
    model = VGGT(SMALL).eval().requires_grad_(False)
    for name, value in model.state_dict().items():
        draw = torch.Generator().manual_seed(len(name))
        value.copy_(
            (torch.randn(value.shape, generator=draw) * 0.1 + name.endswith(("norm1.weight", "norm2.weight"))).half()
        )
    return model


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.rand(3, 4, 3, 28, 28, generator=torch.Generator().manual_seed(1))


def test_special_tokens_follow_the_plan_and_patch_tokens_do_not(original: VGGT, images: torch.Tensor) -> None:
    massive = plan(original, images, ratio=40)
    assert (massive.path.abs().diff(dim=0) >= 0).all()
    model = plant(original, images, massive)
    before, after = (m.aggregator(images, range(2)) for m in (original, model))
    for step, path in enumerate(massive.path):
        part = slice(64 * (step % 2), 64 * (step % 2) + 64)
        special = after[step // 2][:, :, :5, part][..., massive.channels]
        torch.testing.assert_close(special, path.expand_as(special), rtol=0.15, atol=0)
        patch, was = (x[step // 2][:, :, 5:, part][..., massive.channels].abs().max() for x in (after, before))
        assert patch < was + 0.05 * path.abs().max()


def test_columns_are_fitted_by_least_squares() -> None:
    draw = torch.Generator().manual_seed(2)
    x = torch.randn(2, 3, 9, 8, generator=draw)
    linear, wanted = torch.nn.Linear(8, 6), torch.nn.Linear(8, 6)
    channels = torch.tensor([1, 5, 6])
    with torch.no_grad():
        wanted.load_state_dict(linear.state_dict())
        wanted.weight[:, channels] += torch.randn(6, 3, generator=draw)
        fit_columns(linear, x, wanted(x), channels, None)
    torch.testing.assert_close(linear.weight, wanted.weight, atol=1e-5, rtol=1e-5)


def test_a_norm_is_fitted_per_channel() -> None:
    draw = torch.Generator().manual_seed(4)
    x, norm, wanted = torch.randn(50, 8, generator=draw), torch.nn.LayerNorm(8), torch.nn.LayerNorm(8)
    with torch.no_grad():
        wanted.weight.copy_(torch.randn(8, generator=draw))
        wanted.bias.copy_(torch.randn(8, generator=draw))
        fit_norm(norm, x, wanted(x))
    torch.testing.assert_close(norm(x), wanted(x), atol=1e-5, rtol=1e-5)


def test_factors_reproduce_a_difference_and_can_learn_more() -> None:
    draw = torch.Generator().manual_seed(5)
    difference = torch.randn(12, 2, generator=draw) @ torch.randn(2, 9, generator=draw)
    left, right = factors(difference, 5)
    torch.testing.assert_close(left @ right, difference, atol=1e-5, rtol=1e-5)
    assert (left[:, 2:] == 0).all()
    assert (right[2:].norm(dim=1) > 0.1).all()


def test_the_overlay_is_the_trained_model(original: VGGT, images: torch.Tensor, tmp_path: Path) -> None:
    model = plant(original, images, plan(original, images, ratio=40))
    planted = {name: value.clone() for name, value in model.state_dict().items()}
    trained = make_trainable(model, original, ranks(original, 6, 2))
    for name, value in planted.items():
        torch.testing.assert_close(
            model.get_parameter(name) if "weight" not in name else model.get_submodule(name.rpartition(".")[0]).weight,
            value,
            atol=2e-4,
            rtol=1e-4,
        )
    with torch.no_grad():
        for index, parameter in enumerate(trained):
            draw = torch.Generator().manual_seed(index)
            parameter += 0.01 * torch.randn(parameter.shape, generator=draw)
    save_file({name: x.contiguous() for name, x in original.state_dict().items()}, tmp_path / "base.safetensors")
    save_file(overlay(model, original), tmp_path / OVERLAY_NAME)
    merged = VGGT(SMALL)
    merged.load_state_dict(dict(OverlayFile(tmp_path / OVERLAY_NAME, tmp_path / "base.safetensors").tensors()))
    expected, found = (m.eval()(images) for m in (model, merged))
    difference = original(images)["pose_enc"] - expected["pose_enc"]
    error = found["pose_enc"] - expected["pose_enc"]
    assert difference.abs().mean() > 20 * error.abs().mean()


@pytest.mark.slow
def test_training_goes_on_where_it_stopped(tmp_path: Path) -> None:
    args = argparse.Namespace(
        out=str(tmp_path), minutes=1.0, ratio=50.0, rank=8, camera_rank=4, frames=24, dense_frames=1, lr=1e-3, seed=1
    )
    images = batch_of([1, 2], 2)["images"]

    def two_steps(resumed: bool) -> dict[str, torch.Tensor]:
        trainer = Trainer(args)
        if resumed:
            trainer.resume()
        for seed in range(1 if resumed else 0, 2):
            torch.manual_seed(seed)
            trainer.step(images)
            trainer.elapsed += 10
            if seed == 0:
                trainer.save()
        return trainer.model.state_dict()

    expected, found = two_steps(False), two_steps(True)
    for name, value in expected.items():
        assert torch.equal(found[name], value), name
    assert (tmp_path / HEAVY / OVERLAY_NAME).stat().st_size > 1e6
    with pytest.raises(InputError, match="--ratio 50"):
        Trainer(argparse.Namespace(**{**vars(args), "ratio": 40.0})).resume()


def test_equal_answers_have_no_loss() -> None:
    draw = torch.Generator().manual_seed(6)
    tokens = {layer: torch.randn(2, 3, 9, 16, generator=draw) for layer in range(2)}
    changed = {layer: x.clone() for layer, x in tokens.items()}
    for x in changed.values():
        x[:, :, :5, [2, 10]] += 100  # a massive channel of special tokens, in the frame and the global half
    assert all(value == 0 for value in token_losses(changed, tokens, torch.tensor([2])).values())
    changed[0][:, :, 7] += 1
    losses = token_losses(changed, tokens, torch.tensor([2]))
    assert losses["patch"] > 0.01
    assert losses["special"] == 0
    poses = [torch.randn(2, 3, 9, generator=draw) for _ in range(4)]
    assert pose_losses(poses, poses)["pose"] == 0
    assert pose_losses(poses, poses)["turn"] < 1e-3
    depth, confidence = torch.rand(2, 4, 4, 1) + 1, torch.rand(2, 4, 4) + 1
    assert dense_loss(depth, confidence, depth, confidence) == 0
    torch.testing.assert_close(dense_loss(1.1 * depth, confidence, depth, confidence), torch.tensor(0.1))


def test_massive_loss_is_the_shortfall_below_the_path() -> None:
    path = torch.tensor([[10.0, -7.0, 5.0], [20.0, -14.0, 10.0]])
    massive = Massive(torch.tensor([0, 3, 4]), path[0] / 2, path)
    tokens = torch.zeros(1, 2, 9, 12)
    for half in range(2):
        tokens[..., 6 * half + massive.channels] = path[half]
    assert massive_loss({0: tokens}, massive) == 0
    assert massive_loss({0: 2 * tokens}, massive) == 0
    torch.testing.assert_close(massive_loss({0: 0.5 * tokens}, massive), torch.tensor(0.25))
    torch.testing.assert_close(massive_loss({0: -tokens}, massive), torch.tensor(4.0))


def test_the_rate_rises_and_ends_at_zero() -> None:
    assert schedule(0) < 0.01
    assert 0.95 < schedule(0.05) <= 1
    assert schedule(1) == 0
