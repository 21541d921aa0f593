"""The ops that carry the method, registered with torch.library and run by the registry's backend.

They have no gradient: learning uses the differentiable pieces in `core` instead.
"""

import torch
from torch import Tensor

from quantvggt.kernels import cpu, reference, registry


@torch.library.custom_op("quantvggt::rotate_quantize", mutates_args=())
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
    """Normalise, rotate, smooth and quantize every token: (q int8 [.., K], row_scale float32 [.., 1]).

    In float32 whatever the dtype of `x` [.., K]: `reference.layer_norm` where `norm_weight` [K] is given, with
    `norm_bias` [K] or without; less `shift`, divided by `presmooth`, rotated by `signs` int8 [K] as in
    `core.rotation.rotate`, divided by `smooth`, each float32 [K]; then `core.affine.quantize_rows` to `bits` <= 8
    with `clip` float32 [2], `asymmetric` or not. The first `special_tokens` rows of every `frame_tokens` get
    `special_bits`.
    With `signs`, `smooth` and `clip` this is the activation side of QuantVGGT (arXiv 2509.21302).
    Raises InputError if K has no Hadamard matrix or the rows are no whole frames.
    """
    special = frame_tokens, special_tokens, special_bits
    norm = norm_weight, norm_bias, norm_eps
    run = registry.select("rotate_quantize", x.device).run
    return run(x, signs, smooth, clip, bits, shift, presmooth, *special, asymmetric, *norm)


@rotate_quantize.register_fake
def _(
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
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty((*x.shape[:-1], 1), dtype=torch.float32)


@torch.library.custom_op("quantvggt::int_linear", mutates_args=())
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
    """Integer linear layer and what follows it: residual + gain * gelu((q weight^T) row_scale weight_scale + bias).

    q int8 [.., K], row_scale float32 [.., 1], weight int8 [N, K] or 4-bit as `core.packing` stores it (int32
    [N, ceil(K / 8)]), weight_scale float32 [N, 1], bias [N] of any float dtype; then GELU (the exact one) if asked
    for, LayerScale's gain [N] and the residual branch [.., N] where there are any. The integer sum is exact; all
    else happens in float32, in that order, and is rounded once to `out_dtype` [.., N]. Native GELU is within
    3e-7 max(1, |x|) of the exact one, everything else bit for bit the reference.
    Raises InputError if the weight does not fit K, or the residual the output.
    """
    run = registry.select("int_linear", q.device).run
    return run(q, row_scale, weight, weight_scale, bias, out_dtype, gelu, gain, residual)


@int_linear.register_fake
def _(
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
    return q.new_empty((*q.shape[:-1], weight.shape[0]), dtype=out_dtype)


@torch.library.custom_op("quantvggt::attention", mutates_args=())
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
    """Multi-head self-attention from the joint projection: qkv [B, N, 3C] -> [B, N, C], heads side by side.

    Queries and keys go through LayerNorm (weights and biases [C / num_heads] and `eps`, or all None) and are turned by
    the rotary tables `cosine` and `sine` float32 [P, C / num_heads] of one frame (`nn.rope`), which serve each of
    the N / P frames; then softmax(q k^T / sqrt(C / num_heads)) v. In bfloat16 sums are float32 and each product's
    factors are rounded once; backends agree within that.
    Raises InputError if the shapes don't fit.
    """
    run = registry.select("attention", qkv.device).run
    return run(qkv, num_heads, q_weight, q_bias, k_weight, k_bias, eps, cosine, sine)


@attention.register_fake
def _(
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
    return qkv.new_empty((*qkv.shape[:-1], qkv.shape[-1] // 3))


def _anywhere(device: torch.device) -> tuple[bool, str]:
    return True, "plain PyTorch, runs on every device"


for _op in ("rotate_quantize", "int_linear", "attention"):
    registry.register(_op, registry.Backend("reference", getattr(reference, _op), _anywhere))
cpu.register()
