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
    """The same scales and integers, but for a few on the edge between two? With a basis, and without LayerNorm whose
    sums are in another order, the same bits?"""
    x, weight, bias = (torch.randn(*shape, **_seeded()).to(device) for shape in ((9, 384), (384,), (384,)))
    signs = random_signs(384, 0).to(device)
    step = RotateQuantize(x, signs, None, None, 8, norm_weight=weight, norm_bias=bias)
    (q, scale), (q_expected, scale_expected) = run(step), reference.rotate_quantize(step)
    off = (q.int() - q_expected.int()).abs()
    if not (torch.allclose(scale, scale_expected, rtol=1e-5) and off.max() <= 1 and off.sum() <= 9):
        return False
    basis, unit = _integers(384, 16), torch.full((1,), 1 / 2048, device="cpu")
    # On the CPU: PyTorch's quotients by one number aren't always the nearest on a GPU.
    expected = reference.rotate_quantize(
        RotateQuantize(x.cpu(), signs.cpu(), None, None, 4, basis=basis, basis_scale=unit)
    )
    step = RotateQuantize(x, signs, None, None, 4, basis=basis.to(device), basis_scale=unit.to(device))
    return all(torch.equal(got.cpu(), each) for got, each in zip(run(step), expected, strict=True))


def products_agree(run: Callable[[IntLinear], Tensor], device: torch.device) -> bool:
    """The reference's bits, in tiles for few rows and for many, with 8-bit weights and packed ones, with a branch and
    without?"""
    for rows, k in ((5, 200), (200, 256)):
        q, weight, beside = (_integers(n, width).to(device) for n, width in ((rows, k + 16), (140, k), (140, 16)))
        scales = [torch.arange(1, count + 1, dtype=torch.float32, device=device) for count in (2 * rows, 140)]
        for each in (weight, pack_int4(weight >> 4)):
            for step in (
                IntLinear(q[:, :k], scales[0][:rows], each, scales[1], None, torch.float32),
                IntLinear(q, scales[0], each, scales[1], None, torch.float32, branch=beside, branch_scale=scales[1]),
            ):
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


def scores_agree(run: Callable[[Attention], Tensor], device: torch.device) -> bool:
    """With 8-bit queries and keys, thinned out and not, is it as near to the reference as bfloat16 allows? Among keys
    with a mean far from 0, which rounding would be lost in."""
    qkv = torch.randn(1, 150, 3 * 2 * 64, **_seeded())
    qkv[..., 128:256] += 20
    qkv = qkv.bfloat16().to(device)
    seen = torch.zeros(50, device=device)
    seen[1::2] = -torch.inf
    for each in (None, seen):
        step = Attention(qkv, 2, None, None, None, None, 0.0, None, None, each, score_bits=8)
        got, expected = run(step).double(), reference.attention(step).double()
        if not (got - expected).norm() < TOLERANCE * expected.norm():
            return False
    return True


def _integers(*shape: int) -> Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8, **_seeded())


def _seeded() -> dict[str, Any]:
    return {"device": "cpu", "generator": torch.Generator().manual_seed(0)}
