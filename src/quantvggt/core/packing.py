"""Signed numbers of 2, 3 or 4 bits in int32 words, the layout of the compressed-tensors convention.

A row is a stream of bits, the low ones of each word first: element i is stored as value + 2^(bits - 1) in bits
bits * i .. bits * (i + 1) - 1. So 3-bit numbers may straddle two words, and 32 of them fill three.
"""

from functools import reduce
from operator import or_

import torch
import torch.nn.functional as F
from torch import Tensor

from quantvggt.core.chunks import cached_rows
from quantvggt.core.errors import InputError

MEMORY_BITS = 4
"""How wide packed weights are in a loaded model, whatever their numbers need: what kernels read."""

_BYTES = {2: 1, 3: 3, 4: 1}  # that hold whole numbers, for each width
_PERIOD = 32  # numbers that fill whole words, at any width


def packed_width(k: int, bits: int = MEMORY_BITS) -> int:
    """How many int32 words a row of `k` values takes."""
    return -(-k * bits // 32)


def pack(q: Tensor, bits: int) -> Tensor:
    """Pack int8 [N, K] with values in -2^(bits - 1) .. 2^(bits - 1) - 1 to int32 [N, ceil(bits K / 32)]; the last word
    is filled as if zeros followed.

    Raises InputError if a value does not fit, or `bits` is none of 2, 3, 4.
    """
    shifts, half, k = _shifts(bits), 2 ** (bits - 1), q.shape[1]
    codes = (F.pad(q, (0, -k % _PERIOD)) + half).to(torch.uint8).unflatten(1, (-1, len(shifts)))
    if (codes >> bits).any():
        fits = f"only {-half} to {half - 1} fit"
        raise InputError(f"cannot pack values from {q.min()} to {q.max()} in {bits} bits; {fits}")
    dtype = torch.uint8 if _BYTES[bits] == 1 else torch.int32
    units = reduce(or_, (codes[..., i].to(dtype) << shift for i, shift in enumerate(shifts)))
    octets = units.unsqueeze(-1).view(torch.uint8)[..., : _BYTES[bits]]  # little-endian
    return octets.flatten(1).view(torch.int32)[:, : packed_width(k, bits)].contiguous()


def unpack(packed: Tensor, k: int, bits: int) -> Tensor:
    """Inverse of `pack`: int32 [N, ceil(bits K / 32)] to int8 [N, K], K = `k`.

    Raises InputError if the width of `packed` does not fit `k`, or `bits` is none of 2, 3, 4.
    """
    shifts = _shifts(bits)
    needed = packed_width(k, bits)
    if packed.shape[-1] != needed:
        raise InputError(f"packed weight has {packed.shape[-1]} words a row; {k} values need {needed}")
    units = packed.contiguous().view(torch.uint8)
    if _BYTES[bits] == 3:
        threes = F.pad(units, (0, -units.shape[1] % 3)).unflatten(1, (-1, 3))
        units = F.pad(threes, (0, 1)).view(torch.int32).squeeze(-1)
    codes = torch.stack([(units >> shift).to(torch.uint8) for shift in shifts], -1).flatten(1)
    return codes.bitwise_and_(2**bits - 1).view(torch.int8).sub_(2 ** (bits - 1))[:, :k]


def repack(packed: Tensor, k: int, before: int, after: int) -> Tensor:
    """The same rows of `k` values in fields of `after` bits instead of `before`. Raises InputError as `pack`."""
    if before == after:
        return packed
    result = packed.new_empty(len(packed), packed_width(k, after))
    step = max(1, cached_rows(packed) // 8)  # a word holds 8 numbers or more; little is to be held beside the result
    for some, out in zip(packed.split(step), result.split(step), strict=True):
        out.copy_(pack(unpack(some, k, before), after))
    return result


def pack_int4(q: Tensor) -> Tensor:
    """`pack` as memory has it: int8 [N, K] to int32 [N, ceil(K / 8)]."""
    return pack(q, MEMORY_BITS)


def unpack_int4(packed: Tensor, k: int) -> Tensor:
    """`unpack` as memory has it: int32 [N, ceil(K / 8)] to int8 [N, K]."""
    return unpack(packed, k, MEMORY_BITS)


def _shifts(bits: int) -> range:
    """Where the numbers of one unit of `_BYTES` start."""
    if bits not in _BYTES:
        raise InputError(f"cannot pack numbers of {bits} bits; 2, 3 or 4 bits can be packed")
    return range(0, 8 * _BYTES[bits], bits)
