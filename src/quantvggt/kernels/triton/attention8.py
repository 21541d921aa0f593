"""`attention` with 8-bit queries and keys: they are rounded, then scores, softmax and values in one kernel.

Consumer GPUs multiply int8 three to four times as fast as bfloat16. As in SageAttention (arXiv 2410.02367) the keys
lose their mean first, and values stay in 16 bits.
"""

import math
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantvggt.kernels.contract import Attention
from quantvggt.kernels.shown import shown
from quantvggt.kernels.triton import attention
from quantvggt.kernels.triton.launch import Launch
from quantvggt.kernels.triton.prologue import in_8_bits, scale_of
from quantvggt.kernels.triton.tiles import Tile

ROWS = 32
WARPS = 4


def width_of(step: Attention) -> int:
    """Channels of a head as they lie in memory: as many as matrix units take at once, those beyond the head's are 0."""
    return max(32, triton.next_power_of_2(step.head_size))


def run(step: Attention, tile: Tile) -> Tensor:
    """On the current device."""
    integers, scales = _rounded(step)
    y = step.empty()
    plan(step, integers, scales, shared(step, integers[1], scales[1]), y, tile).run()
    return y


def _rounded(step: Attention) -> tuple[Tensor, Tensor]:
    """Integers and scales as `plan_rounding` has them."""
    batch, n, _ = step.qkv.shape
    prepared = step.qkv.new_empty(2, batch, n, step.num_heads, step.head_size)
    attention.plan(step, prepared).run()
    integers = step.qkv.new_empty((2, batch, step.num_heads, n, width_of(step)), dtype=torch.int8)
    scales = step.qkv.new_empty(integers.shape[:-1], dtype=torch.float32)
    plan_rounding(step, prepared, prepared[1].mean(1, dtype=torch.float32), integers, scales).run()
    return integers, scales


def plan_rounding(step: Attention, prepared: Tensor, mean: Tensor, integers: Tensor, scales: Tensor) -> Launch:
    """The call that rounds `prepared` [2, B, N, h, d], queries and keys, to integers [2, B, h, N, WIDTH] and scales
    [2, B, h, N], those of queries times the softmax's own and log2 e. mean: of the keys, float32 [B, h, d]."""
    batch, n, _ = step.qkv.shape
    rows = batch * n * step.num_heads
    return Launch(
        round_kernel,
        (triton.cdiv(rows, ROWS), 2),
        {
            "prepared": prepared,
            "mean": mean,
            "integers": integers,
            "scales": scales,
            "unit": math.log2(math.e) / math.sqrt(step.head_size),
            "rows": rows,
            "n": n,
        },
        {"HEADS": step.num_heads, "D": step.head_size, "WIDTH": width_of(step), "ROWS": ROWS},
        WARPS,
    )


class Shared(NamedTuple):
    """What queries see of other frames than their own, frame by frame: keys int8 [B, h, M, WIDTH], scales [B, h, M],
    values [B, h, M, d], log2 of what each counts for [M]; kept: how many are a frame's. All None: nothing."""

    keys: Tensor | None = None
    scales: Tensor | None = None
    values: Tensor | None = None
    weights: Tensor | None = None
    kept: int = 0


def shared(step: Attention, keys: Tensor, scales: Tensor) -> Shared:
    """Gathered, because few are kept of many."""
    batch, n, _ = step.qkv.shape
    if step.seen is None or len(step.seen) >= n:
        return Shared()
    places, weights = shown(step.seen)
    if not len(places):
        return Shared()
    frames = n // len(step.seen)
    values = step.qkv.view(batch, n, 3, step.num_heads, -1)[:, :, 2].transpose(1, 2)

    def of_all_frames(x: Tensor) -> Tensor:
        return x.unflatten(2, (frames, -1)).index_select(3, places).flatten(2, 3)

    weights = (weights * math.log2(math.e)).repeat(frames)
    return Shared(of_all_frames(keys), of_all_frames(scales), of_all_frames(values), weights, len(places))


def plan(step: Attention, integers: Tensor, scales: Tensor, others: Shared, y: Tensor, tile: Tile) -> Launch:
    """The call that writes y."""
    batch, n, _ = step.qkv.shape
    length = n if step.seen is None else min(n, len(step.seen))
    blocks, frames = triton.cdiv(length, tile.rows), n // length
    return Launch(
        attention8_kernel,
        (blocks * frames * batch * step.num_heads,),
        {
            "queries": integers[0],
            "query_scales": scales[0],
            "keys": integers[1],
            "key_scales": scales[1],
            "qkv": step.qkv,
            "shared_keys": others.keys,
            "shared_scales": others.scales,
            "shared_values": others.values,
            "shared_weights": others.weights,
            "shared_count": others.kept * frames,
            "shared_kept": others.kept,
            "y": y,
            "n": n,
            "length": length,
            "blocks": blocks,
            "frames": frames,
        },
        {
            "HEADS": step.num_heads,
            "D": step.head_size,
            "WIDTH": integers.shape[-1],
            "ROWS": tile.rows,
            "COLUMNS": tile.columns,
            "WIDEN": step.device.type == "cpu",  # Triton's interpreter can't multiply bfloat16
        },
        tile.warps,
        tile.stages,
    )


@triton.jit(do_not_specialize=["rows", "n"])
def round_kernel(
    prepared, mean, integers, scales, unit, rows, n, HEADS: tl.constexpr, D: tl.constexpr, WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """A row is one head of one token: queries, or keys without their mean."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    token, head = row // HEADS, row % HEADS
    of = token // n * HEADS + head  # which head of which batch
    channel = tl.arange(0, WIDTH)
    known = (row < rows)[:, None] & (channel < D)[None, :]
    keys = tl.program_id(1) == 1
    if keys:
        prepared += rows.to(tl.int64) * D
    y = tl.load(prepared + row[:, None] * D + channel[None, :], mask=known, other=0.0).to(tl.float32)
    if keys:
        y -= tl.load(mean + of[:, None] * D + channel[None, :], mask=known, other=0.0)
    scale, inverse = scale_of(tl.max(tl.abs(y), 1))
    scale += tl.sum(y * 0.0, 1)  # NaN where not all of the row is finite
    target = of * n + token % n
    if keys:
        integers += rows.to(tl.int64) * WIDTH
        scales += rows
    else:
        scale *= unit
    tl.store(scales + target, scale, mask=row < rows)
    tl.store(integers + target[:, None] * WIDTH + channel[None, :], in_8_bits(y, inverse), mask=(row < rows)[:, None])


@triton.jit(do_not_specialize=["n", "length", "blocks", "frames", "shared_count", "shared_kept"])
def attention8_kernel(
    queries, query_scales, keys, key_scales, qkv, shared_keys, shared_scales, shared_values, shared_weights,
    shared_count, shared_kept, y, n, length, blocks, frames, HEADS: tl.constexpr, D: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Some queries of one frame and head: over the keys of their frame, then over those that other frames share."""
    block, frame = tl.program_id(0) % blocks, tl.program_id(0) // blocks % frames
    of = (tl.program_id(0) // (blocks * frames)).to(tl.int64)
    batch, head = of // HEADS, of % HEADS
    first = frame.to(tl.int64) * length
    row = block * ROWS + tl.arange(0, ROWS)
    known = row < length
    channel = tl.arange(0, WIDTH)
    token = first + tl.minimum(row, length - 1)  # rows beyond the end are read as the last and not written
    q = tl.load(queries + (of * n + token)[:, None] * WIDTH + channel[None, :])
    scale = tl.load(query_scales + of * n + token)
    total = tl.zeros([ROWS, WIDTH], tl.float32)
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    sums = tl.zeros([ROWS], tl.float32)

    keys += (of * n + first) * WIDTH
    key_scales += of * n + first
    values = qkv + (batch * n + first) * (3 * HEADS * D) + (2 * HEADS + head) * D
    total, largest, sums = _over(
        q, scale, total, largest, sums, keys, key_scales, values, None, length, length, frame, 3 * HEADS * D, D,
        COLUMNS, WIDEN,
    )  # fmt: skip
    if shared_keys is not None:
        shared_keys += of * shared_count * WIDTH
        shared_scales += of * shared_count
        shared_values += of * shared_count * D
        total, largest, sums = _over(
            q, scale, total, largest, sums, shared_keys, shared_scales, shared_values, shared_weights, shared_count,
            shared_kept, frame, D, D, COLUMNS, WIDEN,
        )  # fmt: skip
    total /= sums[:, None]
    y += (batch * n + token)[:, None] * (HEADS * D) + head * D + channel[None, :]
    tl.store(y, total.to(y.dtype.element_ty), mask=known[:, None] & (channel < D)[None, :])


@triton.jit
def _over(
    q, scale, total, largest, sums, keys, key_scales, values, weights, count, kept, frame, STRIDE: tl.constexpr,
    D: tl.constexpr, COLUMNS: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    """Softmax's running maximum and sum, and the sum of values, with `count` keys more."""
    whole = count // COLUMNS * COLUMNS
    for start in range(0, whole, COLUMNS):
        total, largest, sums = _block(
            q, scale, total, largest, sums, keys, key_scales, values, weights, start, count, kept, frame, STRIDE, D,
            COLUMNS, True, WIDEN,
        )  # fmt: skip
        keys += COLUMNS * q.shape[1]
        key_scales += COLUMNS
        values += COLUMNS * STRIDE
    if whole < count:
        total, largest, sums = _block(
            q, scale, total, largest, sums, keys, key_scales, values, weights, whole, count, kept, frame, STRIDE, D,
            COLUMNS, False, WIDEN,
        )  # fmt: skip
    return total, largest, sums


@triton.jit
def _block(
    q, scale, total, largest, sums, keys, key_scales, values, weights, start, count, kept, frame, STRIDE: tl.constexpr,
    D: tl.constexpr, COLUMNS: tl.constexpr, WHOLE: tl.constexpr, WIDEN: tl.constexpr,
):  # fmt: skip
    WIDTH: tl.constexpr = q.shape[1]
    column, channel = tl.arange(0, COLUMNS), tl.arange(0, WIDTH)
    place = start + column
    known = place < count
    key_tile = keys + column[None, :] * WIDTH + channel[:, None]
    if WHOLE:
        k, key_scale = tl.load(key_tile), tl.load(key_scales + column)
    else:
        k = tl.load(key_tile, mask=known[None, :], other=0)
        key_scale = tl.load(key_scales + column, mask=known, other=0.0)
    scores = tl.dot(q, k, out_dtype=tl.int32).to(tl.float32) * key_scale[None, :]
    if WHOLE and weights is None:
        # A query's scale is above 0, so the largest stays the largest.
        new = tl.maximum(largest, tl.max(scores, 1) * scale)
        p = tl.exp2(tl.fma(scores, scale[:, None], -new[:, None]))
    else:
        bias = tl.zeros([COLUMNS], tl.float32)
        if weights is not None:  # a frame sees its own tokens apart from those that it shares
            bias = tl.load(weights + place, mask=known, other=0.0)
            own = frame * kept
            bias = tl.where((place >= own) & (place < own + kept), float("-inf"), bias)
        if not WHOLE:
            bias = tl.where(known, bias, float("-inf"))
        scores = scores * scale[:, None] + bias[None, :]
        new = tl.maximum(largest, tl.max(scores, 1))
        p = tl.exp2(scores - new[:, None])
    before = tl.exp2(largest - new)
    sums = sums * before + tl.sum(p, 1)
    value_tile = values + column[:, None] * STRIDE + channel[None, :]
    if WHOLE and D == WIDTH:
        v = tl.load(value_tile)
    else:
        v = tl.load(value_tile, mask=known[:, None] & (channel < D)[None, :], other=0.0)
    p = p.to(v.dtype)
    if WIDEN:
        p, v = p.to(tl.float32), v.to(tl.float32)
    total = tl.dot(p, v, total * before[:, None])
    return total, new, sums
