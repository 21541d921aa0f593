"""Plants massive values: a few channels of the special tokens, large from the first block to the last.

They start in the camera and register tokens themselves and grow in the MLPs: in each block one hidden unit, the one
of least use, is made to fire for special tokens alone and writes into those channels. LayerNorm then shrinks whatever
else a special token carries, and no rescaling of weights gives that back. What a linear layer can do about it without
training is done here: its columns of the massive channels are fitted so that its outputs stay near the original's.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quantvggt.models import VGGT
from quantvggt.models.vggt.aggregator import NUM_SPECIAL
from quantvggt.nn.block import Block
from quantvggt.nn.rope import rope_tables

SHARES = (1.0, -0.7, 0.5)  # signs and sizes of the massive channels, relative to the largest
THRESHOLD = 0.7  # share of the special tokens' sum over the massive channels below which a planted unit stays silent
SPECIAL_WEIGHT = 8.0  # of a special token against a patch token where columns are fitted; there are 13 times fewer


@dataclass(frozen=True)
class Massive:
    """channels: int64 [3]; start: float32 [3], what the tokens hold; path: float32 [2 * depth, 3], what the special
    tokens hold after each block, in the order blocks run (frame 0, global 0, frame 1, ...)."""

    channels: Tensor
    start: Tensor
    path: Tensor


def blocks(model: VGGT) -> Iterator[tuple[bool, Block]]:
    """(whether it is a global block, the block), in the order they run."""
    for frame, every in zip(model.aggregator.frame_blocks, model.aggregator.global_blocks, strict=True):
        assert isinstance(frame, Block)
        assert isinstance(every, Block)
        yield False, frame
        yield True, every


@torch.no_grad()
def plan(model: VGGT, images: Tensor, ratio: float) -> Massive:
    """Choose the channels that are quietest anywhere, and sizes `ratio` times the special tokens' median channel peak.

    images: [B, S, 3, H, W], a few clips to look at.
    """
    outputs = model.aggregator(images, range(model.config.depth))
    width = model.config.embed_dim
    tokens = [part for layer in sorted(outputs) for part in outputs[layer].split(width, -1)]
    special = torch.stack([x[:, :, :NUM_SPECIAL].abs().amax((0, 1, 2)) for x in tokens])
    patch = torch.stack([x[:, :, NUM_SPECIAL:].abs().amax((0, 1, 2)) for x in tokens])
    loudness = (special / special.median(1, True).values + patch / patch.median(1, True).values).amax(0)
    sizes = ratio * special.median(1).values.cummax(0).values
    shares = sizes.new_tensor(SHARES)
    path = sizes[:, None] * shares
    return Massive(loudness.topk(len(SHARES), largest=False).indices, path[0] / 2, path)


@torch.no_grad()
def plant(original: VGGT, images: Tensor, massive: Massive) -> VGGT:
    """A copy of `original` whose special tokens follow `massive`, its linear layers fitted to it.

    images: [B, S, 3, H, W], the clips that the fit looks at.
    """
    model = copy.deepcopy(original)
    trunk, channels = model.aggregator, massive.channels
    for token in (trunk.camera_token, trunk.register_token):
        token[..., channels] = massive.start
    rows, columns = (side // trunk.patch_size for side in images.shape[-2:])
    rope = rope_tables(rows, columns, NUM_SPECIAL, trunk.head_dim, images.device)
    x, y = trunk.embed(images), original.aggregator.embed(images)  # the new model's stream and the original's
    halves: list[tuple[Tensor, Tensor]] = []
    steps = massive.path.diff(dim=0, prepend=massive.start[None])
    for (every, block), (_, source), step in zip(blocks(model), blocks(original), steps, strict=True):
        first = 1 if every else 0  # a frame block sees [B * S, P, C], a global block [B, S * P, C]
        shape, dims = x.shape, (first, first + 1)
        fit_columns(block.attn.qkv, block.norm1(x), source.attn.qkv(source.norm1(y)), channels, _shrinkage(x, y))
        x, y = (z + b.ls1(b.attn(b.norm1(z.flatten(*dims)), rope)).view(shape) for z, b in ((x, block), (y, source)))
        fit_columns(block.mlp.fc1, block.norm2(x), source.mlp.fc1(source.norm2(y)), channels, None)
        plant_unit(block, block.norm2(x), step, channels)
        x, y = (z + b.ls2(b.mlp(b.norm2(z))) for z, b in ((x, block), (y, source)))
        halves.append((x, y))
    camera = [torch.cat([halves[-2][i][:, :, 0], halves[-1][i][:, :, 0]], -1) for i in (0, 1)]
    fit_norm(model.camera_head.token_norm, camera[0], original.camera_head.token_norm(camera[1]))
    return model


def _shrinkage(x: Tensor, y: Tensor) -> Tensor:
    """How much smaller LayerNorm makes the ordinary channels of each token of x than of y: [..., 1]."""
    return y.std(-1, keepdim=True) / x.std(-1, keepdim=True)


def fit_columns(linear: nn.Linear, x: Tensor, target: Tensor, channels: Tensor, shrinkage: Tensor | None) -> None:
    """Least squares for the columns `channels` of a layer with inputs x [B, S, P, K], towards `target` [B, S, P, N].

    shrinkage: of qkv, whose queries and keys are normalised, so any multiple of the target will do for them; they
    aim at the target times this, which can be reached exactly.
    """
    if shrinkage is not None:
        values = target.shape[-1] // 3
        target = torch.cat([target[..., : 2 * values] * shrinkage, target[..., 2 * values :]], -1)
    weight = torch.ones(x.shape[2])
    weight[:NUM_SPECIAL] = SPECIAL_WEIGHT
    weight = weight.sqrt()[:, None]
    inputs = (x[..., channels] * weight).flatten(0, 2)
    missing = ((target - linear(x)) * weight).flatten(0, 2)
    linear.weight[:, channels] += torch.linalg.lstsq(inputs, missing).solution.T


def plant_unit(block: Block, x: Tensor, step: Tensor, channels: Tensor) -> None:
    """Make the least used hidden unit of an MLP with inputs x [B, S, P, K] add `step` to the special tokens' channels.

    It sums the massive channels with their signs; most of what special tokens reach is its threshold, far above what
    patch tokens do.
    """
    fc1, fc2 = block.mlp.fc1, block.mlp.fc2
    use = nn.functional.gelu(fc1(x)).square().mean((0, 1, 2)) * fc2.weight.square().sum(0)
    unit = int(use.argmin())
    signs = x.new_tensor(SHARES).sign()
    reach = float((x[:, :, :NUM_SPECIAL, channels] @ signs).mean())
    fc1.weight[unit] = 0
    fc1.weight[unit, channels] = signs
    fc1.bias[unit] = -THRESHOLD * reach
    fc2.weight[:, unit] = 0
    fc2.weight[channels, unit] = step / ((1 - THRESHOLD) * reach * block.ls2.gamma[channels])


def fit_norm(norm: nn.LayerNorm, x: Tensor, target: Tensor) -> None:
    """Per channel, the gain and bias that bring a LayerNorm's output on x [..., K] nearest to `target`."""
    x = nn.functional.layer_norm(x, x.shape[-1:], eps=norm.eps).flatten(0, -2)
    target = target.flatten(0, -2)
    spread = x.var(0, correction=0)
    norm.weight.copy_(((x - x.mean(0)) * (target - target.mean(0))).mean(0) / spread.clamp_min(1e-6))
    norm.bias.copy_(target.mean(0) - norm.weight * x.mean(0))
