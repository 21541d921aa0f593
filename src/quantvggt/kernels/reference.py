"""The ops in plain PyTorch: the definition every other backend must agree with."""

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

from quantvggt.core.affine import quantize_rows
from quantvggt.core.errors import InputError
from quantvggt.core.packing import packed_width, unpack_int4
from quantvggt.core.rotation import rotate


def rotate_quantize(
    x: Tensor,
    signs: Tensor | None,
    smooth: Tensor | None,
    clip: Tensor | None,
    bits: int,
    shift: Tensor | None = None,
    presmooth: Tensor | None = None,
    frame_tokens: int = 1,
    special_tokens: int = 0,
    special_bits: int = 8,
    asymmetric: bool = False,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    norm_eps: float = 1e-5,
) -> tuple[Tensor, Tensor]:
    check_frames(x, frame_tokens)
    x = x.float().contiguous()
    if norm_weight is not None:
        x = layer_norm(x, norm_weight, norm_bias, norm_eps)
    if shift is not None:
        x = x - shift
    if presmooth is not None:
        x = x / presmooth
    if signs is not None:
        x = rotate(x, signs)
    if smooth is not None:
        x = x / smooth
    q, scale = quantize_rows(x, bits, clip, asymmetric)
    if special_tokens > 0:
        rows, q_rows, scale_rows = (
            value.view(-1, frame_tokens, value.shape[-1])[:, :special_tokens] for value in (x, q, scale)
        )
        q_rows[:], scale_rows[:] = quantize_rows(rows, special_bits, clip, asymmetric)
    return q, scale


def int_linear(
    q: Tensor,
    row_scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
    gelu: bool = False,
    gain: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    k = q.shape[-1]
    check_weight(weight, k)
    shape = (*q.shape[:-1], len(weight))
    check_residual(residual, shape)
    if weight.dtype == torch.int32:
        weight = unpack_int4(weight, k)
    rows = q.reshape(-1, k)
    y = _integer_product(rows, weight).float()
    y.mul_(row_scale.reshape(-1, 1)).mul_(weight_scale.view(-1))
    if bias is not None:
        y.add_(bias)
    if gelu:
        y = F.gelu(y)
    if gain is not None:
        y.mul_(gain.float())
    if residual is not None:
        y.add_(residual.reshape(y.shape).float())
    return y.to(out_dtype).view(shape)


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """LayerNorm (arXiv 1607.06450) of float32 rows [.., K], in float32 and in an order that everybody can keep.

    mean and then the variance, the mean of (x - mean)^2, from sums as `_row_sums` forms them; then
    (x - mean) (1 / sqrt(variance + eps)) weight + bias from left to right, each step rounded once.
    """
    x = x - _row_sums(x) / x.shape[-1]
    variance = _row_sums(x.square()) / x.shape[-1]
    # The root by way of float64, because PyTorch's in float32 isn't always the nearest number.
    rstd = 1 / (variance + eps).double().sqrt().float()
    y = x.mul_(rstd).mul_(weight.float())
    return y if bias is None else y.add_(bias.float())


def _row_sums(x: Tensor) -> Tensor:
    """Sums over the rows of `x` [.., K] as [.., 1]: 32 partial sums, of the numbers 32 apart, folded in halves.

    In 32 parts because a sum from left to right is slow and less exact, and a fixed order gives the same bits anywhere.
    """
    first, *rest = F.pad(x, (0, -x.shape[-1] % 32)).split(32, dim=-1)
    sums = first.clone()
    for part in rest:
        sums += part
    for half in (16, 8, 4, 2, 1):
        sums = sums[..., :half] + sums[..., half:]
    return sums


def attention(
    qkv: Tensor,
    num_heads: int,
    q_weight: Tensor | None,
    q_bias: Tensor | None,
    k_weight: Tensor | None,
    k_bias: Tensor | None,
    eps: float,
    cosine: Tensor | None,
    sine: Tensor | None,
) -> Tensor:
    check_attention(qkv, num_heads, cosine)
    q, k, v = qkv.unflatten(-1, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    if q_weight is not None and k_weight is not None:
        q = F.layer_norm(q.to(q_weight.dtype), q.shape[-1:], q_weight, q_bias, eps)
        k = F.layer_norm(k.to(k_weight.dtype), k.shape[-1:], k_weight, k_bias, eps)
    if cosine is not None and sine is not None:
        q, k = _rotary(q, cosine, sine), _rotary(k, cosine, sine)
    y = F.scaled_dot_product_attention(q.to(v.dtype), k.to(v.dtype), v)
    return y.transpose(1, 2).flatten(2)


def _rotary(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate x [B, h, S P, d]; the tables [P, d] of one frame serve each of the S frames."""
    frames = x.unflatten(2, (-1, len(cosine)))
    a, b = frames.unflatten(-1, (2, 2, -1)).unbind(-2)
    turned = torch.stack((-b, a), dim=-2).flatten(-3)
    return (frames * cosine + turned * sine).flatten(2, 3)


def check_attention(qkv: Tensor, num_heads: int, cosine: Tensor | None) -> None:
    """Raises InputError unless `qkv` is [B, N, 3 h d] of whole frames."""
    if qkv.ndim != 3 or qkv.shape[-1] % (3 * num_heads):
        raise InputError(f"attention with {num_heads} heads takes [B, N, 3 h d], got {list(qkv.shape)}")
    if cosine is not None and (qkv.shape[1] % len(cosine) or cosine.shape[-1] * 3 * num_heads != qkv.shape[-1]):
        raise InputError(f"rotary tables {list(cosine.shape)} don't fit {list(qkv.shape)} and {num_heads} heads")


def check_frames(x: Tensor, frame_tokens: int) -> None:
    """Raises InputError unless the rows of `x` [.., K] are whole frames of `frame_tokens`."""
    rows = x.shape[:-1].numel()
    if frame_tokens < 1 or rows % frame_tokens:
        raise InputError(f"{rows} tokens are no whole frames of {frame_tokens}")


def check_residual(residual: Tensor | None, shape: tuple[int, ...]) -> None:
    """Raises InputError unless there is no `residual` or it has the output's `shape`."""
    if residual is not None and residual.shape != shape:
        raise InputError(f"a residual for an output of {list(shape)} has that shape, not {list(residual.shape)}")


def check_weight(weight: Tensor, k: int) -> None:
    """Raises InputError unless `weight` is int8 [N, k] or packed 4-bit int32 [N, ceil(k / 8)]."""
    width = k if weight.dtype == torch.int8 else packed_width(k) if weight.dtype == torch.int32 else None
    if weight.ndim != 2 or weight.shape[1] != width:
        raise InputError(
            f"a weight for {k} channels is int8 [N, {k}] or packed int32 [N, {packed_width(k)}], "
            f"not {weight.dtype} {list(weight.shape)}"
        )


def _integer_product(q: Tensor, weight: Tensor) -> Tensor:
    """q [M, K] times the transpose of weight [N, K], both int8, summed exactly: in int32 on a CPU that can,
    else in float64, which holds every such sum too."""
    # With one channel torch 2.13's int8 product returns memory it never wrote.
    if q.device.type == "cpu" and q.shape[1] > 1 and _int8_product_is_exact():
        return torch._int_mm(q, weight.t())
    # An integer sum has no -0.
    return (q.double() @ weight.double().t()).add_(0.0)


@lru_cache
def _int8_product_is_exact() -> bool:
    """False on CPUs without VNNI instructions, which add pairs of products in 16 bits and so may saturate."""
    extreme = torch.tensor([-128, 127], dtype=torch.int8).repeat_interleave(64).view(2, 64)
    try:
        product = torch._int_mm(extreme, extreme.t())
    except RuntimeError:
        return False
    return torch.equal(product, (extreme.double() @ extreme.double().t()).int())
