"""AMX paths have only ever run on emulated tiles: a real CPU has to give the reference's results once, in milliseconds,
before they are trusted on it.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from quantvggt.core.packing import pack_int4
from quantvggt.kernels import reference

UNPROVEN = ("amx", "amxbf16")
REASON = "its results differ from the reference's on this CPU (please report that)"
ROWS, CHANNELS, COLUMNS = 37, 200, 70  # of no tile's size
TOKENS, HEADS, HEAD_DIM = 300, 2, 64
TOLERANCE = 0.01  # bfloat16 costs attention 0.3 to 0.5% of its norm


def products_agree(int_linear: Callable[..., Tensor]) -> bool:
    """Does it give the reference's bits?"""
    generator = torch.Generator().manual_seed(0)
    q, weight = (
        torch.randint(-128, 128, (n, CHANNELS), dtype=torch.int8, generator=generator) for n in (ROWS, COLUMNS)
    )
    row_scale, weight_scale = (torch.rand(n, 1, generator=generator) for n in (ROWS, COLUMNS))
    stored = weight, pack_int4(weight >> 4)
    calls = [(q, row_scale, each, weight_scale, None, torch.float32) for each in stored]
    return all(torch.equal(int_linear(*args), reference.int_linear(*args)) for args in calls)


def attention_agrees(attention: Callable[..., Tensor]) -> bool:
    """Is it as near to exact attention as bfloat16 allows?"""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(1, TOKENS, 3 * HEADS * HEAD_DIM, generator=generator)
    steps = HEADS, None, None, None, None, 0.0, None, None
    exact = reference.attention(qkv.double(), *steps)
    return bool((attention(qkv.bfloat16(), *steps).double() - exact).norm() < TOLERANCE * exact.norm())
