"""Symmetric ranges and scales: float rows to integers and back.

    scale = absmax / (2^(N-1) - 1),   q = clamp(round(x / scale), -2^(N-1), 2^(N-1) - 1)

with rounding half to even, in float32 whatever the input's dtype. Integers of up to 8 bits are held in int8.
"""

import torch
from torch import Tensor

from quantvggt.core.scheme import ASYMMETRIC_BITS


def qmax(bits: int) -> int:
    """The largest N-bit signed integer, 2^(N-1) - 1; the smallest is -qmax - 1."""
    return (1 << (bits - 1)) - 1


def quantize_rows(x: Tensor, bits: int, clip: Tensor | None = None, asymmetric: bool = False) -> tuple[Tensor, Tensor]:
    """Quantize every row of `x` [.., K] with its own scale: (q int8 [.., K], scale float32 [.., 1]).

    `clip` float [2] holds factors in (0, 1] on the row's maximum and minimum, which then decide the range:
    absmax = max(clip[0] * max(x, 0), -clip[1] * min(x, 0)) (QuantVGGT's learned activation clipping).
    asymmetric: from the minimum to the maximum instead, see `quantize_ranges`; wider than 7 bits stays symmetric.
    A row of zeros gets scale 1, so it comes back as zeros.
    """
    x = x.float()
    high, low = row_ranges(x)
    if clip is not None:
        high, low = high * clip[0].float(), low * clip[1].float()
    return quantize_ranges(x, high, low, bits, asymmetric and bits <= ASYMMETRIC_BITS)


def quantize_weight(weight: Tensor, bits: int, clip: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Quantize a weight [N, K] per output channel: (q int8 [N, K], scale float32 [N, 1]).

    `clip` float [N, 2] holds per-channel factors in (0, 1] on the row's maximum and minimum. Unlike in
    `quantize_rows` the row is clamped to [clip[:, 1] * min, clip[:, 0] * max] before its scale is found, so
    each side saturates at its own bound (QuantVGGT's learned weight clipping).
    """
    weight = weight.float()
    if clip is not None:
        clip = clip.float()
        high, low = weight.amax(-1, keepdim=True), weight.amin(-1, keepdim=True)
        weight = torch.clamp(weight, low * clip[:, 1:], high * clip[:, :1])
    return quantize_rows(weight, bits)


def dequantize(q: Tensor, scale: Tensor) -> Tensor:
    """q [.., K] times scale [.., 1], float32 [.., K]."""
    return q.float() * scale


def row_ranges(x: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum and minimum of every row of `x` [.., K], extended to hold zero: high >= 0 >= low, each [.., 1]."""
    return x.amax(-1, keepdim=True).clamp(min=0), x.amin(-1, keepdim=True).clamp(max=0)


def quantize_ranges(x: Tensor, high: Tensor, low: Tensor, bits: int, asymmetric: bool = False) -> tuple[Tensor, Tensor]:
    """Quantize `x` [.., K] within given ranges, high >= 0 >= low, broadcast to [.., 1]: (int8 [.., K], scale [.., 1]).

    Symmetric: scale = max(high, -low) / (2^(N-1) - 1) and q as above. Asymmetric: scale = (high - low) / (2^N - 1),
    zero = round(-low / scale), and what is returned is q - zero with q in 0 .. 2^N - 1: the same integer product
    serves both, at the price of one more bit, so N <= 7. In both cases x is about q times scale.
    """
    x = x.float()
    top = qmax(bits)
    if not asymmetric:
        scale = torch.maximum(high, -low) / top
        # A scale may also underflow to zero where the row's values are subnormal.
        scale = torch.where(scale > 0, scale, 1.0).expand(*x.shape[:-1], 1)
        return (x / scale).round_().clamp_(-top - 1, top).to(torch.int8), scale.contiguous()
    levels = 2 * top + 1
    scale = (high - low) / levels
    scale = torch.where(scale > 0, scale, 1.0).expand(*x.shape[:-1], 1)
    zero = (-low / scale).round_().clamp_(0, levels)
    return torch.clamp((x / scale).round_(), -zero, levels - zero).to(torch.int8), scale.contiguous()
