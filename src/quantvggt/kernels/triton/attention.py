"""`attention`: queries and keys through LayerNorm and rotary embedding in one kernel, then PyTorch's own attention."""

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from quantvggt.kernels import reference
from quantvggt.kernels.contract import Attention
from quantvggt.kernels.triton.launch import Launch

# The fastest first; PyTorch takes the first that the shapes and the GPU allow.
PRIORITY = [
    SDPBackend.CUDNN_ATTENTION,
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
MASKED = [SDPBackend.EFFICIENT_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.MATH]
"""Of thinned attention: flash attention takes no mask, and cuDNN's has been wrong with some in several releases."""
ROWS = 32
WARPS = 4


def priority() -> list[SDPBackend]:
    """PRIORITY, but flash attention first where somebody has activated a newer one than PyTorch's (FA3, FA4)."""
    current = getattr(torch.nn.attention, "current_flash_attention_impl", lambda: None)
    first = [SDPBackend.FLASH_ATTENTION] if current() is not None else []
    return first + [backend for backend in PRIORITY if backend not in first]


def plan(step: Attention, prepared: Tensor) -> Launch:
    """The call that writes queries and keys as they go into the products: `prepared` [2, B, N, h, d]."""
    batch, n, _width = step.qkv.shape
    d = step.head_size
    return Launch(
        prepare_kernel,
        (triton.cdiv(batch * n * step.num_heads, ROWS), 2),
        {
            "qkv": step.qkv,
            "q_weight": step.q_weight,
            "q_bias": step.q_bias,
            "k_weight": step.k_weight,
            "k_bias": step.k_bias,
            "cosine": step.cosine,
            "sine": step.sine,
            "prepared": prepared,
            "eps": float(step.eps),
            "rows": batch * n * step.num_heads,
            "frame_tokens": 1 if step.cosine is None else len(step.cosine),
        },
        {"HEADS": step.num_heads, "D": d, "WIDTH": triton.next_power_of_2(d), "ROWS": ROWS},
        WARPS,
    )


def attend(step: Attention, prepared: Tensor | None) -> Tensor:
    """Softmax and values; `prepared` is None where queries and keys are used as they are."""
    q, k, v = step.qkv.unflatten(-1, (3, step.num_heads, -1)).unbind(2)
    if prepared is not None:
        q, k = prepared.unbind(0)
    masked = step.seen is not None and len(step.seen) < step.qkv.shape[1]
    with sdpa_kernel(MASKED if masked else priority(), set_priority=True):
        y = reference.attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), step.seen)
    return y.transpose(1, 2).flatten(2)


@triton.jit(do_not_specialize=["rows", "frame_tokens"])
def prepare_kernel(
    qkv, q_weight, q_bias, k_weight, k_bias, cosine, sine, prepared, eps, rows, frame_tokens, HEADS: tl.constexpr,
    D: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    if tl.program_id(1) == 0:
        _prepare(qkv, q_weight, q_bias, cosine, sine, prepared, eps, rows, frame_tokens, HEADS, D, WIDTH, ROWS)
    else:
        qkv += HEADS * D
        prepared += rows.to(tl.int64) * D
        _prepare(qkv, k_weight, k_bias, cosine, sine, prepared, eps, rows, frame_tokens, HEADS, D, WIDTH, ROWS)


@triton.jit
def _prepare(
    x, weight, bias, cosine, sine, y, eps, rows, frame_tokens, HEADS: tl.constexpr, D: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """A row is one head of one token."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    token, head = row // HEADS, row % HEADS
    channel = tl.arange(0, WIDTH)
    known = (row < rows)[:, None] & (channel < D)[None, :]
    x += (token * (3 * HEADS * D) + head * D)[:, None]
    values = tl.load(x + channel[None, :], mask=known, other=0.0).to(tl.float32)
    mean = tl.zeros([ROWS], tl.float32)
    rstd = mean + 1.0
    if weight is not None:
        mean = tl.div_rn(tl.sum(values, 1), mean + D)
        centred = tl.where(known, values - mean[:, None], 0.0)
        rstd = tl.div_rn(rstd, tl.sqrt_rn(tl.div_rn(tl.sum(centred * centred, 1), rstd * D) + eps))
    values = _normed(values, mean, rstd, weight, bias, channel, D)
    if cosine is not None:
        # Channels of one axis, a half of the head each, turn in pairs a quarter of the head apart.
        first = (channel // (D // 4)) % 2 == 0
        partner = tl.where(first, channel + D // 4, channel - D // 4)
        others = tl.load(x + partner[None, :], mask=known, other=0.0).to(tl.float32)
        others = _normed(others, mean, rstd, weight, bias, partner, D)
        place = (token % frame_tokens)[:, None] * D + channel[None, :]
        values *= tl.load(cosine + place, mask=known, other=0.0)
        values += tl.where(first[None, :], -others, others) * tl.load(sine + place, mask=known, other=0.0)
    tl.store(y + row[:, None] * D + channel[None, :], values.to(y.dtype.element_ty), mask=known)


@triton.jit
def _normed(values, mean, rstd, weight, bias, channel, D: tl.constexpr):
    if weight is not None:
        values = (values - mean[:, None]) * rstd[:, None]
        values *= tl.load(weight + channel, mask=channel < D, other=0.0).to(tl.float32)[None, :]
        if bias is not None:
            values += tl.load(bias + channel, mask=channel < D, other=0.0).to(tl.float32)[None, :]
    return values
