"""Float8 rows with a scale each: e4m3 (arXiv 2209.05433), 4 exponent and 3 fraction bits, up to 448, no infinities.

    scale = absmax / 448,   q = x / scale as the nearest float8, half to even

in float32 whatever the input's dtype.
"""

import torch
from torch import Tensor

FLOAT8 = torch.float8_e4m3fn
MOST = 448.0  # the largest number


def quantize_float8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Every row of `x` [.., K] with its own scale: (q float8_e4m3fn [.., K], scale float32 [.., 1]).

    A row of zeros gets scale 1. A row of finite numbers never becomes NaN; one with an infinity or a NaN stays one:
    q times scale has a NaN, and so has every product with it.
    """
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True) / MOST
    # It may also underflow to zero where the row's values are subnormal.
    scale = torch.where(scale == 0, 1.0, scale)
    # Rounding may go past the largest number, which not every release of PyTorch makes the largest again.
    return (x / scale).clamp_(-MOST, MOST).to(FLOAT8), scale


def is_number(q: Tensor) -> Tensor:
    """Which of the float8 `q` are none of the two NaNs."""
    return q.view(torch.uint8) & 0x7F != 0x7F
