"""Losses that hold a model to another one's answers, and one that holds massive values up."""

import torch
import torch.nn.functional as F
from torch import Tensor

from nano.geometry import pair_errors, rotation_of
from nano.losses import ITERATION_DECAY
from nano.massive import Massive
from quantvggt.models.vggt.aggregator import NUM_SPECIAL

Outputs = dict[int, Tensor]


def token_losses(outputs: Outputs, targets: Outputs, channels: Tensor) -> dict[str, Tensor]:
    """Squared error of patch and of special tokens [B, S, P, 2C] of all layers, in units of each channel's variance.

    Of special tokens the massive `channels` don't count: there the two models differ on purpose.
    """
    width = targets[0].shape[-1]
    kept = torch.ones(width, dtype=torch.bool)
    kept[torch.cat([channels, channels + width // 2])] = False
    total = {"patch": torch.zeros(()), "special": torch.zeros(())}
    for layer, target in targets.items():
        error = (outputs[layer].float() - target.float()).square()
        patch, special = target[:, :, NUM_SPECIAL:].float(), target[:, :, :NUM_SPECIAL].float()
        total["patch"] += (error[:, :, NUM_SPECIAL:] / _variance(patch)).mean()
        total["special"] += (error[:, :, :NUM_SPECIAL] / _variance(special))[..., kept].mean()
    return {name: value / len(targets) for name, value in total.items()}


def _variance(x: Tensor) -> Tensor:
    """Of each channel over everything else, kept away from zero: [K]."""
    variance = x.flatten(0, -2).var(0)
    return variance.clamp_min(float(0.1 * variance.median()))


def massive_loss(outputs: Outputs, massive: Massive) -> Tensor:
    """Squared shortfall of the special tokens' massive channels below their path, as a share of it."""
    layers = torch.stack([outputs[layer] for layer in sorted(outputs)])[:, :, :, :NUM_SPECIAL]
    halves = layers.unflatten(-1, (2, -1))[..., massive.channels].float()  # [layer, B, S, 5, frame or global, 3]
    path = massive.path.view(len(layers), 1, 1, 1, 2, -1)
    return F.relu(1 - halves / path).square().mean()


def pose_losses(iterations: list[Tensor], targets: list[Tensor]) -> dict[str, Tensor]:
    """L1 between pose encodings [B, S, 9] of every iteration, the last counting most, and the angles (radians) between
    the relative poses of the last."""
    encoding = torch.zeros(())
    weights = [ITERATION_DECAY ** (len(targets) - 1 - i) for i in range(len(targets))]
    for weight, found, target in zip(weights, iterations, targets, strict=True):
        encoding = encoding + weight / sum(weights) * (found - target).abs().mean()
    found, target = iterations[-1], targets[-1]
    truth = torch.cat([rotation_of(target[..., 3:7]), target[..., :3, None]], -1)
    turn, heading = pair_errors(rotation_of(found[..., 3:7]), found[..., :3], truth)
    return {"pose": encoding, "turn": turn.mean(), "heading": heading.mean()}


def dense_loss(value: Tensor, confidence: Tensor, target: Tensor, target_confidence: Tensor) -> Tensor:
    """Error of values [N, H, W, C] relative to the target's length, and a little of the confidences' logarithms."""
    relative = (value - target).norm(dim=-1) / target.norm(dim=-1).clamp_min(0.1)
    return relative.mean() + 0.05 * (confidence.log() - target_confidence.log()).abs().mean()
