"""Data-parallel training: one process per GPU, or per CPU core.

On a CPU one single-threaded process per core beats one process with several threads: the operations are so
small that the threads mostly wait for each other, and all the more on a machine that is not idle.
"""

import os
from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn


def start(device: torch.device) -> tuple[int, int]:
    """Join the group that `torchrun` describes, if any -> this process's rank and how many there are."""
    if "WORLD_SIZE" not in os.environ:
        return 0, 1
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return dist.get_rank(), dist.get_world_size()


def average_gradients(parameters: Sequence[nn.Parameter], clock: float) -> float:
    """Replace each gradient by its mean over the processes; returns the mean clock, so that all agree on the time."""
    if not dist.is_initialized():
        return clock
    gradients = [p.grad for p in parameters if p.grad is not None]
    flat = torch.cat([*(g.flatten() for g in gradients), gradients[0].new_tensor([clock])])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    parts: tuple[Tensor, ...] = flat[:-1].split([g.numel() for g in gradients])
    torch._foreach_copy_(gradients, [part.view_as(g) for part, g in zip(parts, gradients, strict=True)])
    return float(flat[-1])
