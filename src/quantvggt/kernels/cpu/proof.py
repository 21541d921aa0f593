"""Tiles and ARM's products are what most machines that test this lack, and compilers differ in what they know of them:
on each CPU their paths have to give the reference's results once, in milliseconds, before they are chosen.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from quantvggt.core.packing import pack_int4
from quantvggt.kernels import reference
from quantvggt.kernels.contract import Attention, IntLinear, RotateQuantize

UNPROVEN = ("amx", "amxbf16", "i8mm", "dotprod", "neonbf16")
REASON = "its results differ from the reference's on this CPU (please report that)"
TOLERANCE = 0.01  # bfloat16 costs attention 0.3 to 0.5% of its norm


def products_agree(run: Callable[[IntLinear], Tensor]) -> bool:
    """Does it give the reference's bits?"""
    q, weight = (_integers(rows, 200) for rows in (37, 70))
    scales = [torch.arange(1, len(rows) + 1, dtype=torch.float32, device="cpu") for rows in (q, weight)]
    steps = [IntLinear(q, scales[0], each, scales[1], None, torch.float32) for each in (weight, pack_int4(weight >> 4))]
    branch, both = weight[:, :32], scales[0].repeat_interleave(2)
    steps.append(
        IntLinear(q, both, weight[:, 32:], scales[1], None, torch.float32, branch=branch, branch_scale=scales[1])
    )
    return all(torch.equal(run(step), reference.int_linear(step)) for step in steps)


def low_rank_agrees(run: Callable[[RotateQuantize], tuple[Tensor, Tensor]]) -> bool:
    """Does it give the reference's bits with a low-rank branch, whose products are tiles, too?"""
    x = torch.randn(37, 200, dtype=torch.float32, **_seeded())
    scale = torch.full((1,), 1e-3, dtype=torch.float32, device="cpu")
    step = RotateQuantize(x, None, None, None, 8, basis=_integers(200, 32), basis_scale=scale)
    return all(torch.equal(*pair) for pair in zip(run(step), reference.rotate_quantize(step), strict=True))


def attention_agrees(run: Callable[[Attention], Tensor]) -> bool:
    """Is it as near to exact attention as bfloat16 allows?"""
    qkv = torch.randn(1, 300, 3 * 2 * 64, dtype=torch.float32, **_seeded()).bfloat16()
    exact, got = (
        op(Attention(x, 2, None, None, None, None, 0.0, None, None)).double()
        for op, x in ((reference.attention, qkv.double()), (run, qkv))
    )
    return bool((got - exact).norm() < TOLERANCE * exact.norm())


def _integers(rows: int, columns: int) -> Tensor:
    return torch.randint(-128, 128, (rows, columns), dtype=torch.int8, **_seeded())


def _seeded() -> dict[str, Any]:
    return {"device": "cpu", "generator": torch.Generator().manual_seed(0)}
