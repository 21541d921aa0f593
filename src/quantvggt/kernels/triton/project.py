"""What comes first in `rotate_quantize` where there is a basis: the integers of each token in its R directions.

A kernel apart, because sums over K channels are quick on matrix units, which want 16 tokens where the rotation holds
one; it costs one more reading of x. What those integers stand for the rotation takes out by itself, in two instructions
for a channel and a direction or R / 64 clocks a channel: on an RTX 4090, whose memory has 3 bytes a clock for each
multiprocessor, that hides behind it, and on an H100, with 14, it is at R = 32 what the 8 bytes a channel of a remainder
kept in memory would cost.
"""

import triton
import triton.language as tl
from torch import Tensor

from quantvggt.kernels.contract import RotateQuantize
from quantvggt.kernels.triton.launch import Launch
from quantvggt.kernels.triton.prologue import before, in_8_bits, scale_of

ROWS = 16
MOST_AT_ONCE = 32  # channels; more of them leave registers short on some chips
WARPS = 4


def plan(step: RotateQuantize, q: Tensor, scale: Tensor) -> Launch:
    """The call that writes the last R integers of each row of q, and its second scale."""
    x = step.x
    k = x.shape[-1]
    rows = x.numel() // k
    return Launch(
        project_kernel,
        (triton.cdiv(rows, ROWS),),
        {
            "x": x,
            "norm_weight": step.norm_weight,
            "norm_bias": step.norm_bias,
            "shift": step.shift,
            "presmooth": step.presmooth,
            "basis": step.basis,
            "basis_scale": step.basis_scale,
            "q": q,
            "scale": scale,
            "eps": float(step.norm_eps),
            "rows": rows,
        },
        {"K": k, "RANK": step.rank, "ROWS": ROWS, "CHUNK": min(MOST_AT_ONCE, max(32, triton.next_power_of_2(k)))},
        WARPS,
    )


@triton.jit(do_not_specialize=["rows"])
def project_kernel(
    x, norm_weight, norm_bias, shift, presmooth, basis, basis_scale, q, scale, eps, rows, K: tl.constexpr,
    RANK: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    x += tl.minimum(row, rows - 1).to(tl.int64)[:, None] * K  # rows beyond the end are read as the last and not written
    channel = tl.arange(0, CHUNK)
    mean, rstd = tl.zeros([ROWS, 1], tl.float32), tl.full([ROWS, 1], 1.0, tl.float32)
    if norm_weight is not None:
        mean, rstd = _moments(x, eps, K, ROWS, CHUNK)

    largest = tl.zeros([ROWS, CHUNK], tl.float32)
    for start in range(0, K, CHUNK):
        place = start + channel[None, :]
        y = before(x, norm_weight, norm_bias, shift, presmooth, place, place < K, mean, rstd)
        largest = tl.maximum(largest, tl.abs(y))
    step, inverse = scale_of(tl.max(largest, 1))

    column = tl.arange(0, RANK)
    along = tl.zeros([ROWS, RANK], tl.int32)
    for start in range(0, K, CHUNK):
        place = start + channel[None, :]
        y = before(x, norm_weight, norm_bias, shift, presmooth, place, place < K, mean, rstd)
        rounded = in_8_bits(y, inverse)
        depth = start + channel[:, None]
        directions = tl.load(basis + depth * RANK + column[None, :], mask=depth < K, other=0)
        along = tl.dot(rounded, directions, along, out_dtype=tl.int32)

    z = along.to(tl.float32)
    share, inverse = scale_of(tl.max(tl.abs(z), 1))
    q += row.to(tl.int64)[:, None] * (K + RANK) + K
    tl.store(q + column[None, :], in_8_bits(z, inverse), mask=(row < rows)[:, None])
    tl.store(scale + 2 * row.to(tl.int64) + 1, share * step * tl.load(basis_scale), mask=row < rows)


@triton.jit
def _moments(x, eps, K: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr):
    """Mean and 1 / standard deviation of the rows, each [ROWS, 1]."""
    channel = tl.arange(0, CHUNK)[None, :]
    sums = tl.zeros([ROWS, CHUNK], tl.float32)
    for start in range(0, K, CHUNK):
        sums += tl.load(x + start + channel, mask=start + channel < K, other=0.0).to(tl.float32)
    count = tl.full([ROWS, 1], K * 1.0, tl.float32)
    mean = tl.div_rn(tl.sum(sums, 1)[:, None], count)
    sums = tl.zeros([ROWS, CHUNK], tl.float32)
    for start in range(0, K, CHUNK):
        values = tl.load(x + start + channel, mask=start + channel < K, other=0.0).to(tl.float32)
        values = tl.where(start + channel < K, values - mean, 0.0)
        sums += values * values
    variance = tl.div_rn(tl.sum(sums, 1)[:, None], count)
    return mean, tl.div_rn(tl.full([ROWS, 1], 1.0, tl.float32), tl.sqrt_rn(variance + eps))
