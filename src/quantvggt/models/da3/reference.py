"""Which view is the reference, whose camera the others are told from: chosen by the views' class tokens."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from quantvggt.core.errors import InputError

Strategy = Callable[[Tensor], Tensor]
FEWEST = 3
"""Of fewer views the first is the reference."""


def _first(tokens: Tensor) -> Tensor:
    return torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)


def _middle(tokens: Tensor) -> Tensor:
    return torch.full_like(_first(tokens), tokens.shape[1] // 2)


def _saddle_balanced(tokens: Tensor) -> Tensor:
    """The most ordinary view: by likeness to the others, length and spread it lies nearest to the middle of all."""
    unit = F.normalize(tokens, dim=-1)
    alike = unit @ unit.transpose(-1, -2)
    others = (alike.sum(-1) - alike.diagonal(dim1=-2, dim2=-1)) / (tokens.shape[1] - 1)
    values = torch.stack((others, tokens.norm(dim=-1), unit.var(-1)), dim=-1)
    low, high = values.amin(1, keepdim=True), values.amax(1, keepdim=True)
    return ((values - low) / (high - low + 1e-8) - 0.5).abs().sum(-1).argmin(-1)


def _saddle_sim_range(tokens: Tensor) -> Tensor:
    """The view whose likeness to the others ranges widest: one of the two that are most alike, rounding says which."""
    unit = F.normalize(tokens, dim=-1)
    alike = unit @ unit.transpose(-1, -2) - torch.eye(tokens.shape[1], device=tokens.device)
    return (alike.amax(-1) - alike.amin(-1)).argmax(-1)


STRATEGIES: dict[str, Strategy] = {
    "saddle_balanced": _saddle_balanced,
    "saddle_sim_range": _saddle_sim_range,
    "first": _first,
    "middle": _middle,
}


def find_strategy(name: str) -> Strategy:
    """Raises InputError if there is none of that name."""
    if name not in STRATEGIES:
        raise InputError(f"unknown reference view {name!r}; choose one of: {', '.join(STRATEGIES)}")
    return STRATEGIES[name]


def choose(tokens: Tensor, strategy: str) -> Tensor:
    """Class tokens [B, S, C] -> the index of each clip's reference view, int64 [B]."""
    return find_strategy("first" if tokens.shape[1] < FEWEST else strategy)(tokens.float())
