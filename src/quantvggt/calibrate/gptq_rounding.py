"""Rounding a weight so that the layer's output moves least: GPTQ (arXiv 2210.17323, algorithm 1).

With E = q * scale - W and H = X^T X over the calibration inputs, the output error is tr(E H E^T). Channels are rounded
one after the other, and each absorbs what it can of the errors made before it. The paper takes the weights of that
feedback from the Cholesky factor of H^-1. The same numbers come without an inverse: put the channels in reverse order
and factor H = N D N^T with a unit lower triangle N; then tr(E H E^T) = sum_j D_j |E_j + sum_{i > j} E_i N_ij|^2, so
channel j, rounded after all i > j, aims at W_j - sum_{i > j} E_i N_ij.
"""

import torch
from torch import Tensor

from quantvggt.core.affine import qmax
from quantvggt.core.rounding import absmax_scale

BLOCK = 128  # channels between two matrix products


def gptq_round(
    weight: Tensor,
    hessian: Tensor,
    bits: int,
    scale: Tensor | None = None,
    *,
    damping: float = 0.01,
    act_order: bool = False,
    block_size: int = BLOCK,
) -> tuple[Tensor, Tensor]:
    """Round `weight` float [N, K] to `bits`: (q int8 [N, K], scale float32 [N, 1]).

    hessian: X^T X [K, K], times any positive number; best in float64. scale: positive [N, 1], `absmax_scale` if left
    out. damping: what is added to the diagonal, as a share of its mean. act_order: channels with the largest diagonal
    first instead of the first ones first. Memory is a few [K, K] in float64. Deterministic.
    """
    scale = absmax_scale(weight, bits) if scale is None else scale.float()
    # The channel that is rounded first stands last.
    order = hessian.diagonal().argsort(stable=True) if act_order else torch.arange(len(hessian)).flip(0)
    order = order.to(weight.device)
    triangle = _unit_triangle(hessian, damping, order).to(torch.float32)
    target = weight.float()[:, order].t().contiguous()  # [K, N]: a channel's weights lie side by side
    step, top = scale.t().contiguous(), qmax(bits)
    q, error = torch.empty_like(target), torch.empty_like(target)
    for stop in range(len(target), 0, -block_size):
        start = max(0, stop - block_size)
        aim = target[start:stop] - triangle[stop:, start:stop].t() @ error[stop:]
        for j in range(stop - 1, start - 1, -1):
            torch.clamp((aim[j - start] / step[0]).round_(), -top - 1, top, out=q[j])
            torch.sub(q[j] * step[0], target[j], out=error[j])
            aim[: j - start].addr_(triangle[j, start:j], error[j], alpha=-1)
    result = torch.empty_like(q)
    result[order] = q
    return result.t().to(torch.int8).contiguous(), scale


def _unit_triangle(hessian: Tensor, damping: float, order: Tensor) -> Tensor:
    """N of H + damping = N D N^T with rows and columns in `order`, float64 [K, K]."""
    hessian = hessian.double()[order][:, order]
    mean = hessian.diagonal().mean()
    hessian.diagonal().add_(torch.where(mean > 0, damping * mean, 1.0))
    factor = torch.linalg.cholesky(hessian)
    return factor.div_(factor.diagonal().clone())
