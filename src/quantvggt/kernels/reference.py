"""The two ops in plain PyTorch: the definition every other backend must agree with."""

from functools import lru_cache

import torch
from torch import Tensor

from quantvggt.core.affine import quantize_rows
from quantvggt.core.rotation import rotate


def rotate_quantize(
    x: Tensor, signs: Tensor | None, smooth: Tensor | None, clip: Tensor | None, bits: int
) -> tuple[Tensor, Tensor]:
    x = x.float()
    if signs is not None:
        x = rotate(x, signs)
    if smooth is not None:
        x = x / smooth
    return quantize_rows(x, bits, clip)


def int_linear(
    q: Tensor,
    row_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    rows = q.reshape(-1, q.shape[-1])
    y = _integer_product(rows, weight).float()
    y.mul_(row_scale.reshape(-1, 1)).mul_(weight_scale.view(-1))
    if bias is not None:
        y.add_(bias)
    return y.to(out_dtype).view(*q.shape[:-1], len(weight))


def _integer_product(q: Tensor, weight: Tensor) -> Tensor:
    """q [M, K] times the transpose of weight [N, K], both int8, summed exactly: in int32 on a CPU that can,
    else in float64, which holds every such sum too."""
    if q.device.type == "cpu" and _int8_product_is_exact():
        return torch._int_mm(q, weight.t())
    return q.double() @ weight.double().t()


@lru_cache
def _int8_product_is_exact() -> bool:
    """False on CPUs without VNNI instructions, which add pairs of products in 16 bits and so may saturate."""
    extreme = torch.tensor([-128, 127], dtype=torch.int8).repeat_interleave(64).view(2, 64)
    try:
        product = torch._int_mm(extreme, extreme.t())
    except RuntimeError:
        return False
    return torch.equal(product, (extreme.double() @ extreme.double().t()).int())
