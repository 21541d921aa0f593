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

from quantvggt.calibrate.stream import Stream
from quantvggt.models import Model
from quantvggt.models.answers import quantities, units
from quantvggt.models.family import Features, as_sequence
from quantvggt.nn.quant_linear import mark_frames
from quantvggt.scenes.clip import Clip

PROBES = 1
DENSE_FRAMES = 8  # of a longer clip only so many, drawn anew for each clip, go through the dense heads


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
    model: Model, clips: Sequence[Clip], progress: bool = True, seed: int = 0, probes: int = PROBES
) -> dict[str, Importance]:
    """{block name: weights of its outputs} for a float model; deterministic by `seed`.

    Each task's outputs (see `task_outputs`) count as one, whatever their number. A single element's square is too noisy
    to use, so what is returned is a product: of token weights, the mean over channels, for every token of every clip
    (over clips and frames for each special token, which plays one part everywhere), and of
    channel weights, the mean over all tokens of all clips. Runs in the model's dtype, one clip at a time; activations
    inside blocks are computed again instead of kept.
    """
    trunk = model.trunk
    tokens: list[list[Tensor]] = [[] for _ in trunk.places]
    channels = [torch.zeros(()) for _ in trunk.places]
    stream = Stream.start(trunk, model, clips)
    for index, clip in enumerate(tqdm(clips, desc="importance", unit="clip", disable=not progress)):
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}:{index}".encode()))
        for block, squares in enumerate(squared_gradients(model, stream, index, clip, generator, probes)):
            tokens[block].append(squares.mean(-1, keepdim=True))
            channels[block] = channels[block] + squares.flatten(0, -2).mean(0) / len(clips)
    return {
        place.name: _normalised([as_sequence(x, place.kind) for x in _share_special(own, trunk.special)], total)
        for place, own, total in zip(trunk.places, tokens, channels, strict=True)
    }


@torch.enable_grad()
def squared_gradients(
    model: Model, stream: Stream, index: int, clip: Clip, generator: torch.Generator, probes: int
) -> list[Tensor]:
    """For each block as they run: an estimate of the Fisher diagonal of its output for one clip, float32 [S, P, C]."""
    images = clip.images[None].to(model.device, model.dtype)
    part, context = stream.part, stream.contexts[index]
    x = stream.tokens[index].to(model.device, model.dtype).requires_grad_()
    shape = x.shape
    outputs: list[Tensor] = []
    for place in part.places:
        block = model.get_submodule(place.name)
        mark_frames(block, shape[1], part.special)
        x = part.before(place, x, context)
        others = part.arguments(place, context, model.device)
        x = checkpoint(block, as_sequence(x, place.kind), *others, use_reentrant=False).view(shape)
        outputs.append(x)
    tasks = task_outputs(model, model.collect(outputs, context), images, generator)
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
    model: Model, features: Features, images: Tensor, generator: torch.Generator | None = None
) -> list[Tensor]:
    """What the heads say of one clip, as numbers without unit, so that errors of all heads can be compared.

    features: what they read; images [1, S, 3, H, W]. Returned are `models.answers.quantities` over their `units`, which
    count as constants: so gradients of depth and points are those of relative errors. Of more than DENSE_FRAMES frames,
    some are drawn for depth and points; without `generator` the first. The gradient goes through all refinements of the
    cameras: training cuts it between them, and what is left for the last one is a millionth of how the answer really
    depends on the tokens.
    """
    frames = images.shape[1]
    chosen = torch.arange(frames) if generator is None else torch.randperm(frames, generator=generator)
    answers = model.read(features, images, dense=chosen[:DENSE_FRAMES].tolist(), cut=False)
    constant = units(answers.detach())
    return [value / unit.to(value) for value, unit in zip(quantities(answers), constant, strict=True)]


def _share_special(tokens: list[Tensor], special: int) -> list[Tensor]:
    """[S, P, 1] per clip: the first frame's special tokens averaged over clips, those of the others over frames too."""
    heads = torch.stack([x[0, :special] for x in tokens]).mean(0)
    rest = torch.cat([x[1:, :special] for x in tokens])
    for x in tokens:
        x[0, :special] = heads
        if len(x) > 1:
            x[1:, :special] = rest.mean(0)
    return tokens


def _normalised(tokens: list[Tensor], channels: Tensor) -> Importance:
    """Means of 1; a block that no output depends on weighs everything alike."""
    mean = torch.cat([x.flatten() for x in tokens]).mean()
    if mean == 0 or channels.mean() == 0:
        return Importance([torch.ones_like(x) for x in tokens], torch.ones_like(channels))
    return Importance([x / mean for x in tokens], channels / channels.mean())
