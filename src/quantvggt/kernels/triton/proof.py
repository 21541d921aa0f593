"""No GPU has run these kernels yet, and there are more kinds of them than will: on each, every op has to give the
reference's results once, in a few seconds, before it is chosen.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from quantvggt.core.packing import pack_int4
from quantvggt.core.rotation import random_signs
from quantvggt.kernels import reference
from quantvggt.kernels.contract import Attention, IntLinear, RotateQuantize

REASON = "its results differ from the reference's on this GPU (please report that)"
TOLERANCE = 0.01  # bfloat16 costs attention 0.3 to 0.5% of its norm


def rotation_agrees(run: Callable[[RotateQuantize], tuple[Tensor, Tensor]], device: torch.device) -> bool:
    """The same scales and integers, but for a few on the edge between two?"""
    x, weight, bias = (torch.randn(*shape, **_seeded()).to(device) for shape in ((9, 384), (384,), (384,)))
    step = RotateQuantize(x, random_signs(384, 0).to(device), None, None, 8, norm_weight=weight, norm_bias=bias)
    (q, scale), (q_expected, scale_expected) = run(step), reference.rotate_quantize(step)
    off = (q.int() - q_expected.int()).abs()
    return bool(torch.allclose(scale, scale_expected, rtol=1e-5) and off.max() <= 1 and off.sum() <= 9)


def products_agree(run: Callable[[IntLinear], Tensor], device: torch.device) -> bool:
    """The reference's bits, in tiles for few rows and for many, with 8-bit weights and packed ones?"""
    for rows, k in ((5, 200), (200, 256)):
        q, weight = (torch.randint(-128, 128, (n, k), dtype=torch.int8, **_seeded()).to(device) for n in (rows, 140))
        scales = [torch.arange(1, len(each) + 1, dtype=torch.float32, device=device) for each in (q, weight)]
        for each in (weight, pack_int4(weight >> 4)):
            step = IntLinear(q, scales[0], each, scales[1], None, torch.float32)
            if not torch.equal(run(step), reference.int_linear(step)):
                return False
    return True


def attention_agrees(run: Callable[[Attention], Tensor], device: torch.device) -> bool:
    """Is it as near to exact attention as bfloat16 allows?"""
    qkv, weight = (torch.randn(*shape, **_seeded()).to(device) for shape in ((1, 300, 3 * 2 * 64), (64,)))
    angles = torch.arange(100.0, device=device)[:, None] * torch.linspace(0, 1, 64, device=device)

    def step(x: Tensor) -> Attention:
        norm = weight.to(x.dtype)
        return Attention(x, 2, norm, norm, norm, norm, 1e-5, angles.cos(), angles.sin())

    exact = reference.attention(step(qkv.bfloat16().double()))
    got = run(step(qkv.bfloat16())).double()
    return bool((got - exact).norm() < TOLERANCE * exact.norm())


def _seeded() -> dict[str, Any]:
    return {"device": "cpu", "generator": torch.Generator().manual_seed(0)}
