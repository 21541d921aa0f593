"""Rounding a weight's rows to nearest on given scales, and the search for scales that lose least."""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from quantvggt.core.affine import qmax
from quantvggt.core.chunks import cached_rows

SHARES = tuple(1 - step / 100 for step in range(80))
"""Of the largest scale: what GPTQ's and QuaRot's weight quantizers try."""


def nearest_round(weight: Tensor, bits: int, scale: Tensor) -> Tensor:
    """weight [N, K] to the nearest multiples of its scales [N, 1] that `bits` can hold, int8 [N, K]."""
    top = qmax(bits)
    return (weight.float() / scale).round_().clamp_(-top - 1, top).to(torch.int8)


def rounding_error(x: Tensor, bits: int, scale: Tensor, norm: float = 2.0) -> Tensor:
    """|error|^norm of each number of `x` float32 [.., K] when it is rounded like this, scale [.., 1]."""
    top = qmax(bits)
    return (x / scale).round_().clamp_(-top - 1, top).mul_(scale).sub_(x).abs_().pow_(norm)


def absmax_scale(weight: Tensor, bits: int) -> Tensor:
    """max|row| / (2^(bits - 1) - 1) of weight [N, K], float32 [N, 1]; 1 for a row of zeros."""
    scale = weight.float().abs().amax(1, keepdim=True) / qmax(bits)
    return torch.where(scale > 0, scale, 1.0)


def least_error(candidates: Iterable[Tensor], error: Callable[[Tensor], Tensor]) -> Tensor:
    """The candidate whose `error` is least, the first of equals; one for each number of the error, such as [N, 1]."""
    choices = iter(candidates)
    best = next(choices)
    least = error(best)
    for candidate in choices:
        loss = error(candidate)
        best, least = torch.where(loss < least, candidate, best), torch.minimum(loss, least)
    return best


def mse_scale(
    weight: Tensor,
    bits: int,
    *,
    shares: Sequence[float] = SHARES,
    norm: float = 2.4,
    importance: Tensor | None = None,
) -> Tensor:
    """The scale, of `absmax_scale` times each of `shares`, whose nearest rounding of a row has the least
    sum |error|^norm, channels weighted by `importance` [K] if given; float32 [N, 1].

    GPTQ's and QuaRot's weight quantizers search like this; the defaults are theirs.
    """

    def search(rows: Tensor) -> Tensor:
        full = absmax_scale(rows, bits)

        def loss(scale: Tensor) -> Tensor:
            error = rounding_error(rows, bits, scale, norm)
            return error.sum(1, keepdim=True) if importance is None else error @ importance[:, None]

        return least_error((full * share for share in shares), loss)

    weight = weight.float()
    return torch.cat([search(rows) for rows in weight.split(cached_rows(weight))])
