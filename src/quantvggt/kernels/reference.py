"""The ops in plain PyTorch: the definition every other backend must agree with."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from quantvggt.core.affine import dequantize, quantize_rows
from quantvggt.core.packing import unpack_int4
from quantvggt.core.rotation import rotate
from quantvggt.kernels import registry
from quantvggt.kernels.contract import (
    Attention,
    Backend,
    DequantizeWeight,
    Float8Linear,
    IntLinear,
    RotateQuantize,
    Step,
)
from quantvggt.kernels.shown import shown

MOST_SCORES = 1 << 22  # of attention with 8-bit queries and keys, at once


def rotate_quantize(step: RotateQuantize) -> tuple[Tensor, Tensor]:
    x = step.x.float()
    if step.norm_weight is not None:
        x = layer_norm(x, step.norm_weight, step.norm_bias, step.norm_eps)
    if step.shift is not None:
        x = x - step.shift
    if step.presmooth is not None:
        x = x / step.presmooth
    if step.basis is not None and step.basis_scale is not None:
        z, z_scale, part = project(x, step.basis, step.basis_scale)
        x = x - part
    if step.signs is not None:
        x = rotate(x, step.signs)
    if step.smooth is not None:
        x = x / step.smooth
    q, scale = quantize_rows(x, step.bits, step.clip, step.asymmetric)
    if step.special_tokens > 0 and x.numel():
        rows, q_rows, scale_rows = (
            value.view(-1, step.frame_tokens, value.shape[-1])[:, : step.special_tokens] for value in (x, q, scale)
        )
        q_rows[:], scale_rows[:] = quantize_rows(rows, step.special_bits, step.clip, step.asymmetric)
    return (q, scale) if step.basis is None else (torch.cat((q, z), -1), torch.cat((scale, z_scale), -1))


def project(x: Tensor, basis: Tensor, basis_scale: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The part of float32 rows x [.., K] in the directions of `basis` int8 [K, R], its scale float32 [1]:
    (z int8 [.., R], z_scale [.., 1], part [.., K]), part = z basis^T (z_scale basis_scale)."""
    rows, of = x.view(-1, x.shape[-1]), x.shape[:-1]
    rounded, step = _in_8_bits(rows)
    z, share = _in_8_bits(_integer_product(rounded, basis.t()).float())
    z_scale = share * step * basis_scale
    part = _integer_product(z, basis).float().mul_(z_scale * basis_scale)
    return z.view(*of, basis.shape[1]), z_scale.view(*of, 1), part.view(x.shape)


def _in_8_bits(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Float rows [.., K] as (int8 [.., K], scale [.., 1]): absmax / 127, or 1 where that isn't above zero.

    By products with 1 / scale, which are quicker than quotients; or 0, where a scale is so small that this isn't exact.
    """
    scale = rows.abs().amax(-1, keepdim=True) / 127
    scale = torch.where(scale > 0, scale, 1.0)
    inverse = torch.where(scale < 1e-30, 0.0, 1 / scale)
    return (rows * inverse).round_().to(torch.int8), scale


def int_linear(step: IntLinear) -> Tensor:
    k, n = step.channels, len(step.weight)
    if not (step.q.numel() and n):
        return step.empty()
    q, row_scale = step.q.view(step.rows, -1), step.row_scale.view(step.rows, -1)
    y = _integer_product(q[:, :k], _in_8_bits_each(step.weight, k)).float()
    y.mul_(row_scale[:, :1]).mul_(step.weight_scale)
    if step.branch is not None and step.branch_scale is not None:
        y.add_(_integer_product(q[:, k:], step.branch).float().mul_(row_scale[:, 1:]).mul_(step.branch_scale))
    if step.bias is not None:
        y.add_(step.bias)
    if step.gelu:
        y = F.gelu(y)
    if step.gain is not None:
        y.mul_(step.gain)
    if step.residual is not None:
        y.add_(step.residual.view(y.shape).float())
    return y.to(step.out_dtype).view(*step.q.shape[:-1], n)


def dequantize_weight(step: DequantizeWeight) -> Tensor:
    weight = dequantize(_in_8_bits_each(step.weight, step.channels), step.weight_scale.view(-1, 1)).to(step.out_dtype)
    if step.inputs is None:
        return weight
    places = step.channels // step.inputs
    return weight.view(len(weight), places, step.inputs).permute(2, 1, 0).contiguous()


def _in_8_bits_each(weight: Tensor, k: int) -> Tensor:
    if weight.dtype == torch.int8:
        return weight
    # Copied, because a dimension of size one may have any stride, which torch won't view as bytes.
    return unpack_int4(weight.clone(memory_format=torch.contiguous_format), k)


def float8_linear(step: Float8Linear) -> Tensor:
    with torch.autocast(step.device.type, enabled=False):
        y = F.linear(step.q.view(-1, step.q.shape[-1]).float(), step.weight.float())
    y = y.mul_(step.row_scale[:, None]).mul_(step.weight_scale)
    if step.bias is not None:
        y.add_(step.bias)
    return y.to(step.out_dtype).view(*step.q.shape[:-1], len(step.weight))


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


def attention(step: Attention) -> Tensor:
    """The one op with a gradient."""
    q, k, v = step.qkv.unflatten(-1, (3, step.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    if step.q_weight is not None and step.k_weight is not None:
        q = F.layer_norm(q.to(step.q_weight.dtype), q.shape[-1:], step.q_weight, step.q_bias, step.eps)
        k = F.layer_norm(k.to(step.k_weight.dtype), k.shape[-1:], step.k_weight, step.k_bias, step.eps)
    if step.cosine is not None and step.sine is not None:
        q, k = rotary(q, step.cosine, step.sine), rotary(k, step.cosine, step.sine)
    of = attend if step.score_bits == 16 else attend_in_8_bits
    return of(q.to(v.dtype), k.to(v.dtype), v, step.seen).transpose(1, 2).flatten(2)


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
    """Softmax and values of q, k, v [B, h, N, d], thinned out by `seen`; a frame at a time, so no mask is large."""
    if seen is None or len(seen) >= q.shape[2]:
        return F.scaled_dot_product_attention(q, k, v)
    places, weights = shown(seen)
    own_k, own_v = k.unflatten(2, (-1, len(seen))), v.unflatten(2, (-1, len(seen)))
    shared_k, shared_v = (x[:, :, :, places].flatten(2, 3) for x in (own_k, own_v))
    frames, weights = own_k.shape[2], weights.to(q.dtype)
    outputs = []
    for frame, queries in enumerate(q.unflatten(2, (frames, -1)).unbind(2)):
        others = weights.repeat(frames, 1)
        others[frame] = -math.inf
        mask = torch.cat((weights.new_zeros(len(seen)), others.flatten())).expand(len(queries), 1, len(seen), -1)
        keys, values = (torch.cat(pair, 2) for pair in ((own_k[:, :, frame], shared_k), (own_v[:, :, frame], shared_v)))
        outputs.append(F.scaled_dot_product_attention(queries, keys, values, mask))
    return torch.cat(outputs, 2)


def attend_in_8_bits(q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
    """`attend` with 8-bit queries and keys; some queries of one head at a time, so no matrix of scores is large."""
    n, k = q.shape[2], k.float()
    if not q.numel():
        return v.clone()
    (q, q_scale), (k, k_scale) = (_finite_in_8_bits(x) for x in (q.float(), k - k.mean(2, keepdim=True)))
    q_scale = q_scale / math.sqrt(v.shape[-1])
    outputs = []
    for head in zip(*(x.flatten(0, 1) for x in (q, q_scale, k, k_scale, v)), strict=True):
        queries, scales, keys, key_scales, values = head
        for rows in torch.arange(n, device=q.device).split(max(1, MOST_SCORES // n)):
            scores = _integer_product(queries[rows], keys).float() * scales[rows] * key_scales.t()
            if seen is not None:
                frames = torch.arange(n, device=q.device) // len(seen)
                own = frames[rows, None] == frames
                scores = scores + torch.where(own, 0.0, seen.repeat(n // len(seen)))
            outputs.append(scores.softmax(-1).to(v.dtype) @ values)
    return torch.cat(outputs).view(v.shape)


def _finite_in_8_bits(rows: Tensor) -> tuple[Tensor, Tensor]:
    """`_in_8_bits` with a scale that is NaN where not all of a row [.., K] is finite."""
    q, scale = _in_8_bits(rows)
    return q, scale + (rows * 0.0).sum(-1, keepdim=True)


def rotary(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotate x [B, h, S P, d]; the tables [P, d] of one frame serve each of the S frames."""
    frames = x.unflatten(2, (-1, len(cosine)))
    a, b = frames.unflatten(-1, (2, 2, -1)).unbind(-2)
    turned = torch.stack((-b, a), dim=-2).flatten(-3)
    return (frames * cosine + turned * sine).flatten(2, 3)


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


class Reference(Backend):
    name = "reference"

    def __init__(self, op: Callable[..., Any]) -> None:
        self._op = op

    def available(self, device: torch.device) -> tuple[bool, str]:
        return True, "plain PyTorch, runs on every device"

    def run(self, step: Step) -> Any:
        return self._op(step)


def register() -> None:
    """Before anything else: the registry's last one takes every step."""
    for op in (rotate_quantize, int_linear, dequantize_weight, float8_linear, attention):
        registry.register(op.__name__, Reference(op))
