"""Global attention thinned out, without training: of other frames' patches a token sees every second, both ways.

The cost of global attention grows with the square of the frames. AVGGT (arXiv 2512.02541) lets a token look at all of
its own frame and of the others' at a grid's subset of patches, their special tokens and a mean of what was dropped.
Here nothing stands for what was dropped but the patches that were kept: each counts for as many as it stands for, so
that frames keep the share of attention that they had. On vggt-nano that loses nothing, and means do (docs/speed.md).
"""

import math
from functools import cache

import torch
from torch import Tensor

from quantvggt.kernels.shown import moved

STRIDE = 2
"""Of what is called fast. Every fourth patch, so up to four times quicker."""


@cache  # for good: CUDA graphs go on reading these (models.graphs)
def seen_by_others(tokens: int, special: int, columns: int, stride: int, device: torch.device) -> Tensor:
    """`seen` of `kernels.contract.Attention` for frames of so many tokens, `special` ones and then rows of `columns`
    patches, of which the others see each `stride`-th in both directions: float32 [tokens]."""
    with torch.inference_mode(False):
        return moved(_seen(tokens, special, columns, stride), device)


def _seen(tokens: int, special: int, columns: int, stride: int) -> Tensor:
    kept = torch.zeros((tokens - special) // columns, columns, dtype=torch.bool)
    kept[::stride, ::stride] = True
    weight = math.log(kept.numel() / int(kept.sum()))
    patches = torch.full(kept.shape, -math.inf).masked_fill(kept, weight)
    return torch.cat((torch.zeros(special), patches.flatten()))
