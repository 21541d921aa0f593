"""Eight signed 4-bit numbers in one int32, the layout of the compressed-tensors convention.

Each value is stored as value + 8; element i of eight sits in bits 4i .. 4i+3.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from quantvggt.core.errors import InputError

PER_WORD = 8


def packed_width(k: int) -> int:
    """How many int32 words a row of `k` values takes."""
    return -(-k // PER_WORD)


def pack_int4(q: Tensor) -> Tensor:
    """Pack int8 [N, K] with values in -8 .. 7 to int32 [N, ceil(K / 8)], the last word filled with zeros.

    Raises InputError if a value does not fit in 4 bits.
    """
    if ((q < -8) | (q > 7)).any():
        raise InputError(f"cannot pack values from {q.min()} to {q.max()} in 4 bits; only -8 to 7 fit")
    rows, k = q.shape
    nibbles = F.pad(q, (0, packed_width(k) * PER_WORD - k)).to(torch.int32).add_(8)
    shifts = torch.arange(0, 32, 4, dtype=torch.int32, device=q.device)
    # The nibbles don't overlap, so their sum is their union, also where the last one wraps to the sign bit.
    return (nibbles.view(rows, -1, PER_WORD) << shifts).sum(-1, dtype=torch.int32)


def unpack_int4(packed: Tensor, k: int) -> Tensor:
    """Inverse of `pack_int4`: int32 [N, ceil(K / 8)] to int8 [N, K], K = `k`.

    Raises InputError if the width of `packed` does not fit `k`.
    """
    if packed.shape[-1] != packed_width(k):
        raise InputError(f"packed weight has {packed.shape[-1]} words a row; {k} values need {packed_width(k)}")
    pairs = packed.contiguous().view(torch.uint8)  # little-endian words: byte j holds elements 2j and 2j + 1
    nibbles = torch.stack((pairs & 15, pairs >> 4), -1).flatten(-2)
    return nibbles.view(torch.int8).sub_(8)[:, :k]
