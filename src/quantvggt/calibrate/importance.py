"""How much the model's answers depend on each number between two blocks: the weights of a block's loss.

BRECQ (arXiv 2102.05426, section 3.3) weighs the squared error of a block's output by the diagonal of the Fisher
information, squared gradients of a classifier's loss. Cameras, depth and points have no labels here, and the loss of a
model against itself is zero with zero gradient. But for outputs with unit Gaussian noise the Fisher information is
J^T J, J the Jacobian of the outputs, and its diagonal is the mean of (J^T v)^2 over random v ~ N(0, 1) of the outputs'
shape: one backward pass through all blocks for each such probe (Hutchinson's estimator).
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from tqdm import tqdm

from quantvggt.calibrate.stream import Stream, as_sequence, places
from quantvggt.models import VGGT
from quantvggt.models.pose import decode_pose
from quantvggt.models.vggt.heads.dpt import activate_depth, activate_points
from quantvggt.nn.quant_linear import NUM_SPECIAL
from quantvggt.scenes.clip import Clip

PROBES = 1
DENSE_FRAMES = 8  # of a longer clip only so many, drawn anew for each clip, go through the dense heads
SMALLEST = 1e-6


@dataclass(frozen=True)
class Importance:
    """Weights of one block's outputs, kept as token times channel; their mean over everything is 1.

    tokens: float32 [S, P, 1] or, for a global block, [1, S P, 1] per clip; channels: float32 [C].
    """

    tokens: list[Tensor]
    channels: Tensor

    def __getitem__(self, clip: int) -> Tensor:
        """Of one clip, in the shape of the block's output."""
        return self.tokens[clip] * self.channels


def block_importance(
    model: VGGT, clips: Sequence[Clip], progress: bool = True, seed: int = 0, probes: int = PROBES
) -> dict[str, Importance]:
    """{block name: weights of its outputs} for a float model; deterministic by `seed`.

    Each task's outputs (see `task_outputs`) count as one, whatever their number. A single element's square is too noisy
    to use, so what is returned is a product: of token weights, the mean over channels, for every token of every clip
    (over clips and frames for the camera token and each register, which play one part everywhere), and of
    channel weights, the mean over all tokens of all clips. Runs in the model's dtype, one clip at a time; activations
    inside blocks are computed again instead of kept.
    """
    route = places(model)
    tokens: list[list[Tensor]] = [[] for _ in route]
    channels = [torch.zeros(model.config.embed_dim) for _ in route]
    stream = Stream.start(model, clips)
    for index, clip in enumerate(tqdm(clips, desc="importance", unit="clip", disable=not progress)):
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{index}".encode()))
        for block, squares in enumerate(squared_gradients(model, stream, index, clip, generator, probes)):
            tokens[block].append(squares.mean(-1, keepdim=True))
            channels[block] += squares.flatten(0, -2).mean(0) / len(clips)
    return {
        place.name: _normalised([as_sequence(x, place.kind) for x in _share_special(own)], total)
        for place, own, total in zip(route, tokens, channels, strict=True)
    }


@torch.enable_grad()
def squared_gradients(
    model: VGGT, stream: Stream, index: int, clip: Clip, generator: torch.Generator, probes: int
) -> list[Tensor]:
    """For each block as they run: an estimate of the Fisher diagonal of its output for one clip, float32 [S, P, C]."""
    images = clip.images[None].to(model.device, model.dtype)
    shape = stream.tokens[index].shape
    outputs: list[Tensor] = []
    read: dict[int, Tensor] = {}
    x = stream.tokens[index].to(model.device, model.dtype).requires_grad_()
    for place in places(model):
        block = model.get_submodule(place.name)
        _, rope = stream.input(index, block, place.kind)
        x = checkpoint(block, as_sequence(x, place.kind), rope, use_reentrant=False).view(shape)
        outputs.append(x)
        if place.kind == "global" and place.index in model.config.layers_read:
            read[place.index] = torch.cat(outputs[-2:], dim=-1)[None]
    tasks = task_outputs(model, read, images, generator)
    result = [torch.zeros(shape) for _ in outputs]
    for probe in range(probes):
        noise = [torch.randn(task.shape, generator=generator).to(task) / task.numel() ** 0.5 for task in tasks]
        total = torch.stack([(task * v).sum() for task, v in zip(tasks, noise, strict=True)]).sum()
        gradients = torch.autograd.grad(total, outputs, retain_graph=probe + 1 < probes, allow_unused=True)
        for square, gradient in zip(result, gradients, strict=True):
            if gradient is not None:
                square += gradient.float().square().cpu() / probes
    return result


def task_outputs(
    model: VGGT, tokens: dict[int, Tensor], images: Tensor, generator: torch.Generator | None = None
) -> list[Tensor]:
    """What the heads say of one clip, as numbers without unit, so that errors of all tasks can be compared.

    tokens: {layer: [1, S, P, 2C]} for the layers that heads read; images [1, S, 3, H, W]. Returned, where the heads
    exist: relative rotations and translations of all pairs of cameras, translations divided by their own root mean
    square; fields of view in radians; depth divided by itself and points by their distance from the origin, at least
    its median, whose gradients are those of relative errors. Of more than DENSE_FRAMES frames, some are drawn for the
    last two; without `generator` the first. The gradient goes through all refinements of the cameras: training cuts it
    between them, and what is left for the last one is a millionth of how the answer really depends on the tokens.
    """
    tasks: list[Tensor] = []
    height, width = images.shape[-2:]
    if "camera" in model.config.heads:
        pose = model.camera_head(tokens[model.config.depth - 1][:, :, 0], cut=False)[-1][0]
        extrinsics, _ = decode_pose(pose, height, width)
        rotation, translation = extrinsics[:, :, :3], extrinsics[:, :, 3]
        between = rotation[:, None] @ rotation[None].transpose(-1, -2)
        moved = translation[:, None] - (between @ translation[None, :, :, None])[..., 0]
        tasks += [between, moved / moved.detach().square().mean().sqrt().clamp(min=SMALLEST), pose[:, 7:]]
    frames = images.shape[1]
    chosen = torch.arange(frames) if generator is None else torch.randperm(frames, generator=generator)
    chosen = chosen[:DENSE_FRAMES]
    shown = {layer: tokens[layer][0, chosen] for layer in set(model.config.dpt_layers)}
    if "depth" in model.config.heads:
        depth, _ = activate_depth(model.depth_head(shown, height, width))
        tasks.append(depth / depth.detach().clamp(min=SMALLEST))
    if "point" in model.config.heads:
        points, _ = activate_points(model.point_head(shown, height, width))
        distance = points.detach().norm(dim=-1, keepdim=True)
        tasks.append(points / torch.maximum(distance, distance.median()).clamp(min=SMALLEST))
    return tasks


def _share_special(tokens: list[Tensor]) -> list[Tensor]:
    """[S, P, 1] per clip: the first frame's special tokens averaged over clips, those of the others over frames too."""
    heads = torch.stack([x[0, :NUM_SPECIAL] for x in tokens]).mean(0)
    rest = torch.cat([x[1:, :NUM_SPECIAL] for x in tokens])
    for x in tokens:
        x[0, :NUM_SPECIAL] = heads
        if len(x) > 1:
            x[1:, :NUM_SPECIAL] = rest.mean(0)
    return tokens


def _normalised(tokens: list[Tensor], channels: Tensor) -> Importance:
    """Means of 1; a block that no output depends on weighs everything alike."""
    mean = torch.cat([x.flatten() for x in tokens]).mean()
    if mean == 0 or channels.mean() == 0:
        return Importance([torch.ones_like(x) for x in tokens], torch.ones_like(channels))
    return Importance([x / mean for x in tokens], channels / channels.mean())
