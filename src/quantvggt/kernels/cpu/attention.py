"""Attention on one path of the native library."""

import ctypes
import math
from functools import lru_cache, partial

import torch
from torch import Tensor

from quantvggt.kernels import reference
from quantvggt.kernels.cpu import proof
from quantvggt.kernels.cpu.build import function, usable
from quantvggt.kernels.cpu.paths import address, vector

HEAD_SIZES = (32, 64, 128)
# Fields of `AttentionArgs` in native/args.h.
_POINTERS = ("qkv", "q_weight", "q_bias", "k_weight", "k_bias", "cosine", "sine", "workspace", "out")


class _Args(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in ("batch", "n", "heads", "d", "frame_tokens", "threads")),
        *((name, ctypes.c_float) for name in ("eps", "scale")),
    )


def check(path: str, device: torch.device) -> tuple[bool, str]:
    """Can `path` run on `device`, and why (not)?"""
    if device.type != "cpu":
        return False, "CPU only"
    can, reason = usable(path, "attention")
    if can and path in proof.UNPROVEN and not _proven(path):
        return False, proof.REASON
    return can, f"{reason}; for bfloat16 models" if can else reason


@lru_cache
def _proven(path: str) -> bool:
    return proof.attention_agrees(partial(run, path))


def run(
    path: str,
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
    """The op; what the native code doesn't take runs in PyTorch."""
    batch, n, width = qkv.shape
    d = width // (3 * num_heads)
    if qkv.dtype != torch.bfloat16 or d not in HEAD_SIZES or not qkv.numel():
        return reference.attention(qkv, num_heads, q_weight, q_bias, k_weight, k_bias, eps, cosine, sine)
    reference.check_attention(qkv, num_heads, cosine)
    frame_tokens = n if cosine is None else len(cosine)
    out = qkv.new_empty(batch, n, width // 3)
    norms = {"q_weight": q_weight, "q_bias": q_bias, "k_weight": k_weight, "k_bias": k_bias}
    pointers = (
        qkv.contiguous(),
        *(vector(value, torch.float32, d, name) for name, value in norms.items()),
        *(vector(table, torch.float32, frame_tokens * d, "rotary table") for table in (cosine, sine)),
        torch.empty(batch * num_heads * d * ((n + 31) // 32 * 32), dtype=torch.int32),
        out,
    )
    numbers = (batch, n, num_heads, d, frame_tokens, torch.get_num_threads())
    args = _Args(*map(address, pointers), *numbers, eps, math.log2(math.e) / math.sqrt(d))
    function(path, "attention")(ctypes.byref(args))
    return out
