"""Block-by-block reconstruction: learn a block's quantization parameters so that its output stays the float block's.

QuantVGGT (arXiv 2509.21302, section 3.2), as BRECQ (arXiv 2102.05426) before it.
"""

import copy
import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quantvggt.calibrate.fake_quant import FakeQuantLinear
from quantvggt.calibrate.methods.base import BlockTask
from quantvggt.models.family import as_sequence
from quantvggt.nn.quant_linear import QuantLinear


def fake_block(task: BlockTask, layers: Mapping[str, FakeQuantLinear]) -> nn.Module:
    """A copy of the task's block with `layers` in place; nothing in it but their own parameters learns."""
    shared: dict[int, Any] = {id(parameter): parameter for parameter in task.block.parameters()}
    block = copy.deepcopy(task.block, shared)
    for layer, module in layers.items():
        block.set_submodule(layer, module)
    return block


def reconstruct(
    task: BlockTask,
    block: nn.Module,
    groups: Sequence[dict[str, Any]],
    epochs: int,
    seed: int,
    penalty: Callable[[float], Tensor] | None = None,
    betas: tuple[float, float] = (0.9, 0.999),
    mix: float = 0.0,
) -> None:
    """Train the parameters in `groups` ({"params": [...], "lr": ...}) for `epochs` passes over the clips.

    Loss: squared difference between the block's output and the float block's, mean over everything, weighted by
    `task.importance` if there is any; plus `penalty(progress)`, progress from 0 to 1. AdamW without weight decay, one
    clip a step in random order, cosine to zero. mix: share of the input's numbers that are taken from the float stream
    instead, drawn anew at each step (QDrop). Deterministic by `seed`. Calls `task.tick` after each epoch.
    """
    groups = [group for group in groups if group["params"]]
    steps = epochs * len(task.targets.tokens)
    if not groups or not steps:
        return
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0, betas=betas)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5 * (1 + math.cos(math.pi * step / steps)))
    parameters = [parameter for group in groups for parameter in group["params"]]
    seed = zlib.crc32(f"{seed}:{task.place.name}".encode())
    generator = torch.Generator().manual_seed(seed)
    block.train()
    with torch.enable_grad(), torch.random.fork_rng([]):
        torch.manual_seed(seed)
        step = 0
        for _ in range(epochs):
            total = 0.0
            for index in torch.randperm(len(task.targets.tokens), generator=generator).tolist():
                x, *others = task.inputs.input(index, block, task.place)
                if mix:
                    x = torch.where(torch.rand_like(x) < mix, task.floats.input(index, block, task.place)[0], x)
                target = as_sequence(task.targets.tokens[index], task.place.kind).to(x)
                error = (block(x, *others) - target).square()
                if task.importance is not None:
                    error = error * task.importance[index].to(x)
                loss = error.mean()
                total += loss.item()
                if penalty is not None:
                    loss = loss + penalty(step / steps)
                optimizer.zero_grad(set_to_none=True)
                gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
                for parameter, gradient in zip(parameters, gradients, strict=True):
                    parameter.grad = gradient
                optimizer.step()
                schedule.step()
                step += 1
            task.tick(f"loss {total / len(task.targets.tokens):.3g}")
    block.eval()


def freeze(layers: Mapping[str, FakeQuantLinear]) -> dict[str, QuantLinear]:
    """Every layer in integers."""
    return {layer: module.freeze() for layer, module in layers.items()}
