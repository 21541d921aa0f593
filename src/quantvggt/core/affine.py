"""Symmetric ranges and scales: float rows to integers and back.

    scale = absmax / (2^(N-1) - 1),   q = clamp(round(x / scale), -2^(N-1), 2^(N-1) - 1)

with rounding half to even, in float32 whatever the input's dtype. Integers of up to 8 bits are held in int8.
"""

import torch
from torch import Tensor


def qmax(bits: int) -> int:
    """The largest N-bit signed integer, 2^(N-1) - 1; the smallest is -qmax - 1."""
    return (1 << (bits - 1)) - 1


def quantize_rows(x: Tensor, bits: int, clip: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Quantize every row of `x` [.., K] with its own scale: (q int8 [.., K], scale float32 [.., 1]).

    `clip` float [2] holds factors in (0, 1] on the row's maximum and minimum, which then decide the range:
    absmax = max(clip[0] * max(x, 0), -clip[1] * min(x, 0)) (QuantVGGT's learned activation clipping).
    A row of zeros gets scale 1, so it comes back as zeros.
    """
    x = x.float()
    high, low = x.amax(-1, keepdim=True), x.amin(-1, keepdim=True)
    if clip is not None:
        high, low = high.clamp(min=0) * clip[0].float(), low.clamp(max=0) * clip[1].float()
    top = qmax(bits)
    scale = torch.maximum(high, -low) / top
    # A scale may also underflow to zero where the row's values are subnormal.
    scale = torch.where(scale > 0, scale, 1.0)
    return (x / scale).round_().clamp_(-top - 1, top).to(torch.int8), scale


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
