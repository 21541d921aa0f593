"""`rotate_quantize` in one kernel: a program takes one token from its floats to its integers.

The rotation is that of `core.rotation`, in its order, so with the same bits: first H_m, its terms added in order, then
butterflies from the shortest stride to the longest. A butterfly takes neighbours apart and puts all sums in front of
all differences: after the last one every number is back in its place, and each step looks the same to the compiler.
"""

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from quantvggt.core.rotation import inner_order, paley
from quantvggt.kernels.contract import RotateQuantize
from quantvggt.kernels.triton.launch import Launch
from quantvggt.kernels.triton.prologue import before, half_to_even
from quantvggt.kernels.triton.tiles import rotate_warps


def plan(step: RotateQuantize, q: Tensor, scale: Tensor) -> Launch:
    """The call that writes q and scale; where there is a basis, that of `project` has to come before."""
    x = step.x
    k = x.shape[-1]
    m = 1 if step.signs is None else inner_order(k)
    groups = k // m if step.signs is not None else triton.next_power_of_2(k)
    padded = triton.next_power_of_2(m)
    return Launch(
        rotate_quantize_kernel,
        (x.numel() // k,),
        {
            "x": x,
            "norm_weight": step.norm_weight,
            "norm_bias": step.norm_bias,
            "shift": step.shift,
            "presmooth": step.presmooth,
            # Transposed, so that neighbours read neighbours; beside the tokens it is small.
            "basis": None if step.basis is None else step.basis.t().contiguous(),
            "basis_scale": step.basis_scale,
            "signs": step.signs,
            "hadamard": _hadamard(m, x.device) if m > 1 else None,
            "smooth": step.smooth,
            "clip": step.clip,
            "q": q,
            "scale": scale,
            "eps": float(step.norm_eps),
            "factor": k**-0.5,
            "frame_tokens": step.frame_tokens,
            "special_tokens": step.special_tokens,
        },
        {
            "K": k,
            "RANK": step.rank,
            "M": m,
            "GROUPS": groups,
            "PADDED": padded,
            "STAGES": groups.bit_length() - 1 if step.signs is not None else 0,
            "ROW": triton.next_power_of_2(k),
            "BITS": step.bits,
            "SPECIAL_BITS": step.special_bits,
            "ASYMMETRIC": bool(step.asymmetric),
        },
        rotate_warps(groups * padded),
    )


@lru_cache
def _hadamard(m: int, device: torch.device) -> Tensor:
    return torch.from_numpy(paley(m)).to(device, torch.float32)


@triton.jit(do_not_specialize=["frame_tokens", "special_tokens"])
def rotate_quantize_kernel(
    x, norm_weight, norm_bias, shift, presmooth, basis, basis_scale, signs, hadamard, smooth, clip, q, scale, eps,
    factor, frame_tokens, special_tokens, K: tl.constexpr, RANK: tl.constexpr, M: tl.constexpr, GROUPS: tl.constexpr,
    PADDED: tl.constexpr, STAGES: tl.constexpr, ROW: tl.constexpr, BITS: tl.constexpr, SPECIAL_BITS: tl.constexpr,
    ASYMMETRIC: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0)
    row = program.to(tl.int64)
    x += row * K
    q += row * (K + RANK)
    scale += row * (1 if RANK == 0 else 2)
    z, unit = q + K, 1.0
    if basis is not None:
        unit = tl.load(scale + 1) * tl.load(basis_scale)
    mean, rstd = 0.0, 1.0
    if norm_weight is not None:
        mean, rstd = _moments(x, eps, K, ROW)

    group = tl.arange(0, GROUPS)
    if M == 1:
        place = group
        known = place < K
        y = _rest(x, norm_weight, norm_bias, shift, presmooth, basis, z, unit, signs, place, known, mean, rstd, K, RANK)
        if STAGES > 0:
            y = _butterflies(y, GROUPS, STAGES)
    else:
        column = tl.arange(0, PADDED)
        place = group[:, None] * M + column[None, :]
        known = tl.broadcast_to(column[None, :] < M, [GROUPS, PADDED])
        y = tl.zeros([GROUPS, PADDED], tl.float32)
        for j in range(M):
            here = group * M + j
            term = _rest(
                x, norm_weight, norm_bias, shift, presmooth, basis, z, unit, signs, here, here < K, mean, rstd, K, RANK
            )
            y += term[:, None] * tl.load(hadamard + j * M + column, mask=column < M, other=0.0)[None, :]
        y = _butterflies_of_columns(y, GROUPS, PADDED, STAGES)
    if signs is not None:
        y *= factor
    if smooth is not None:
        y = tl.div_rn(y, tl.load(smooth + place, mask=known, other=1.0))
    y = tl.where(known, y, 0.0)

    flat = tl.reshape(y, [GROUPS * PADDED])
    high, low = tl.maximum(tl.max(flat), 0.0), tl.minimum(tl.min(flat), 0.0)
    if clip is not None:
        high, low = high * tl.load(clip), low * tl.load(clip + 1)
    special = program % frame_tokens < special_tokens
    step, bottom, top = _range(high, low, BITS, ASYMMETRIC)
    special_step, special_bottom, special_top = _range(high, low, SPECIAL_BITS, ASYMMETRIC)
    step = tl.where(special, special_step, step)
    bottom, top = tl.where(special, special_bottom, bottom), tl.where(special, special_top, top)
    # Maxima pass over NaNs, the reference's don't.
    broken = tl.max((flat != flat).to(tl.int32)) > 0
    step = tl.where(broken, 1.0, step)
    integers = half_to_even(tl.minimum(tl.maximum(tl.div_rn(y, step), bottom), top))
    tl.store(q + place, integers.to(tl.int32).to(tl.int8), mask=known)
    tl.store(scale, step)


@triton.jit
def _moments(x, eps, K: tl.constexpr, ROW: tl.constexpr):
    """Mean and 1 / standard deviation of the row."""
    place = tl.arange(0, ROW)
    values = tl.load(x + place, mask=place < K, other=0.0).to(tl.float32)
    mean = tl.div_rn(tl.sum(values), K * 1.0)
    values = tl.where(place < K, values - mean, 0.0)
    variance = tl.div_rn(tl.sum(values * values), K * 1.0)
    return mean, tl.div_rn(1.0, tl.sqrt_rn(variance + eps))


@triton.jit
def _rest(
    x, norm_weight, norm_bias, shift, presmooth, basis, z, unit, signs, place, known, mean, rstd, K: tl.constexpr,
    RANK: tl.constexpr,
):  # fmt: skip
    """What is rotated, at these places of the row; the basis is [R, K] here."""
    part = tl.zeros(place.shape, tl.int32)
    if basis is not None:
        for r in range(RANK):
            direction = tl.load(basis + r * K + place, mask=known, other=0)
            part += tl.load(z + r).to(tl.int32) * direction.to(tl.int32)
    y = before(x, norm_weight, norm_bias, shift, presmooth, place, known, mean, rstd)
    if basis is not None:
        y -= part.to(tl.float32) * unit
    if signs is not None:
        y *= tl.load(signs + place, mask=known, other=0).to(tl.float32)
    return y


@triton.jit
def _butterflies(y, SIZE: tl.constexpr, STAGES: tl.constexpr):
    for _ in tl.static_range(STAGES):
        a, b = tl.split(tl.reshape(y, [SIZE // 2, 2]))
        y = tl.reshape(tl.permute(tl.join(a + b, a - b), [1, 0]), [SIZE])
    return y


@triton.jit
def _butterflies_of_columns(y, SIZE: tl.constexpr, COLUMNS: tl.constexpr, STAGES: tl.constexpr):
    for _ in tl.static_range(STAGES):
        a, b = tl.split(tl.permute(tl.reshape(y, [SIZE // 2, 2, COLUMNS]), [0, 2, 1]))
        y = tl.reshape(tl.permute(tl.join(a + b, a - b), [2, 0, 1]), [SIZE, COLUMNS])
    return y


@triton.jit
def _range(high, low, BITS: tl.constexpr, ASYMMETRIC: tl.constexpr):
    """`core.affine.quantize_ranges`: the scale, the smallest and the largest integer."""
    TOP: tl.constexpr = (1 << (BITS - 1)) - 1.0
    if ASYMMETRIC and BITS <= 7:
        step = tl.div_rn(high - low, 2 * TOP + 1)
        step = tl.where(step > 0, step, 1.0)
        zero = half_to_even(tl.minimum(tl.maximum(tl.div_rn(-low, step), 0.0), 2 * TOP + 1))
        return step, -zero, 2 * TOP + 1 - zero
    else:
        step = tl.div_rn(tl.maximum(high, -low), TOP)
        return tl.where(step > 0, step, 1.0), -TOP - 1, TOP
