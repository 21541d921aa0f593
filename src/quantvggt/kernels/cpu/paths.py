"""The ops on the paths of the native library: which steps it takes, and how it gets their tensors' addresses."""

import ctypes
import math
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from quantvggt.core.rotation import inner_order, paley
from quantvggt.kernels.contract import Attention, Backend, DequantizeWeight, IntLinear, RotateQuantize
from quantvggt.kernels.cpu import build, proof
from quantvggt.kernels.cpu.structs import STRUCTS, packer

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # `Type` in native/args.h
HEAD_SIZES = (32, 64, 128)


class CpuPath(Backend):
    """One op on the path `path`, one of `build.PATHS` or `build.ATTENTION_PATHS`, of the library that `load` gives."""

    OP: ClassVar[str]
    STRUCT: ClassVar[type[ctypes.Structure]]

    def __init__(self, path: str, load: Callable[[], build.Loaded] = build.library) -> None:
        self.name, self.path, self._load = f"cpu-{path}", path, load
        self._pack = packer(self.STRUCT)

    def available(self, device: torch.device) -> tuple[bool, str]:
        """The first call for a CPU builds the library."""
        return self._usable if device.type == "cpu" else (False, "CPU only")

    def digest(self) -> str:
        library, _ = self._load()
        return library.sha256 if library else ""

    @cached_property
    def _usable(self) -> tuple[bool, str]:
        library, reason = self._load()
        can, reason = library.usable(self.path) if library else (False, reason)
        if can and self.path in proof.UNPROVEN and not self._agrees():
            return False, proof.REASON
        return can, reason

    @cached_property
    def _function(self) -> Callable[[bytes], int]:
        library, _ = self._load()
        assert library is not None
        found: Callable[[bytes], int] = getattr(library.native, f"{self.path}_{self.OP}")
        return found

    def _agrees(self) -> bool:
        """With the reference, where instructions that most CPUs lack are used."""
        return True

    def _call(self, *fields: int | float) -> None:
        """fields: of the op's struct, in the order of native/args.h. Raises MemoryError if there is none left."""
        if self._function(self._pack(*fields)):
            raise MemoryError(f"{self.OP}: no memory for the scratch of its threads")


class RotatePath(CpuPath):
    OP, STRUCT = RotateQuantize.OP, STRUCTS["RotateArgs"]

    def accepts(self, step: RotateQuantize) -> str | None:
        return None if step.x.numel() else "there are no rows"

    def _agrees(self) -> bool:
        return proof.low_rank_agrees(self.run)

    def run(self, step: RotateQuantize) -> tuple[Tensor, Tensor]:
        return self.bind(step)(step.x)

    def bind(self, step: RotateQuantize) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
        d, kind, rank = step.x.shape[-1], TYPES[step.x.dtype], step.rank
        m = 1 if step.signs is None else inner_order(d)
        tensors = (
            step.norm_weight,
            step.norm_bias,
            step.shift,
            step.presmooth,
            step.signs,
            _hadamard(m) if m > 1 else None,
            step.smooth,
            step.clip,
            step.basis,
            step.basis_scale,
        )
        fixed = _addresses(*tensors)
        sizes = d, m, step.bits, rank
        tokens = step.frame_tokens, step.special_tokens, step.special_bits, step.asymmetric
        factor, eps = d**-0.5, step.norm_eps

        def run(x: Tensor, held: object = tensors) -> tuple[Tensor, Tensor]:
            q, scale = RotateQuantize.room(x, rank)
            rows, threads = x.numel() // d, torch.get_num_threads()
            given, *out = _addresses(x, q, scale)
            self._call(given, *fixed, *out, kind, rows, *sizes, *tokens, threads, factor, eps)
            return q, scale

        return run


class LinearPath(CpuPath):
    OP, STRUCT = IntLinear.OP, STRUCTS["LinearArgs"]

    def accepts(self, step: IntLinear) -> str | None:
        if step.out_dtype not in TYPES:
            return "its output is never float64"
        return None if step.q.numel() and len(step.weight) else "there are no rows or no columns"

    def _agrees(self) -> bool:
        return proof.products_agree(self.run)

    def run(self, step: IntLinear) -> Tensor:
        return self.bind(step)(step.q, step.row_scale, step.residual)

    def bind(self, step: IntLinear) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
        residual_type = 0 if step.residual is None else TYPES[step.residual.dtype]
        tensors = step.weight, step.weight_scale, step.branch, step.branch_scale, step.bias, step.gain
        fixed = _addresses(*tensors)
        width, n, dtype = step.q.shape[-1], step.weight.shape[0], step.out_dtype
        kinds = TYPES[dtype], residual_type, step.weight.dtype is torch.int32, step.gelu
        sizes = n, step.channels, step.rank

        def run(q: Tensor, row_scale: Tensor, residual: Tensor | None, held: object = tensors) -> Tensor:
            y = IntLinear.room(q, n, dtype)
            rows, threads = q.numel() // width, torch.get_num_threads()
            given, scale, *beside = _addresses(q, row_scale, residual, y)
            self._call(given, scale, *fixed, *beside, *kinds, rows, *sizes, threads)
            return y

        return run


class DequantizePath(CpuPath):
    OP, STRUCT = DequantizeWeight.OP, STRUCTS["DequantizeArgs"]

    def accepts(self, step: DequantizeWeight) -> str | None:
        if step.out_dtype not in TYPES:
            return "its output is never float64"
        return None if len(step.weight) else "there are no rows"

    def run(self, step: DequantizeWeight) -> Tensor:
        out, weight = step.empty(), step.weight
        self._call(
            *_addresses(weight, step.weight_scale, out),
            TYPES[step.out_dtype],
            weight.dtype is torch.int32,
            weight.shape[0],
            step.channels,
            torch.get_num_threads(),
            step.inputs or 0,
        )
        return out


class AttentionPath(CpuPath):
    OP, STRUCT = Attention.OP, STRUCTS["AttentionArgs"]

    def accepts(self, step: Attention) -> str | None:
        if step.qkv.dtype is not torch.bfloat16:
            return f"bfloat16 only, not {str(step.qkv.dtype).removeprefix('torch.')}"
        if step.score_bits != 16:
            return "queries and keys in 16 bits only"
        if step.head_size not in HEAD_SIZES:
            return f"heads of {', '.join(map(str, HEAD_SIZES))} channels, not {step.head_size}"
        if step.seen is not None and bool(step.seen.isnan().any()):
            return "weights that are no numbers"
        return None if step.qkv.numel() else "there are no tokens"

    def _agrees(self) -> bool:
        return proof.attention_agrees(self.run)

    def run(self, step: Attention) -> Tensor:
        (batch, n, _), heads, d = step.qkv.shape, step.num_heads, step.head_size
        out = step.empty()
        # Held by name: what is made here must outlive the call.
        members, ends, weights = _groups(step.seen)
        length = n if step.seen is None else len(step.seen)
        sizes = [length] * (n // length) + [
            n // length * size for size in ends.diff(prepend=ends.new_zeros(1)).tolist()
        ]
        slots = sum((size + 31) // 32 * 32 for size in sizes)
        norms = [None if v is None else v.float() for v in (step.q_weight, step.q_bias, step.k_weight, step.k_bias)]
        workspace = torch.empty(batch * heads * d * slots, dtype=torch.int32)
        self._call(
            *_addresses(step.qkv, *norms, step.cosine, step.sine, members, ends, weights, workspace, out),
            batch,
            n,
            heads,
            d,
            n if step.cosine is None else len(step.cosine),
            length,
            len(ends),
            torch.get_num_threads(),
            step.eps,
            math.log2(math.e) / math.sqrt(d),
        )
        return out


def _groups(seen: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Places in a frame that others see, those of one weight together; where each group ends; log2 of its weight."""
    if seen is None:
        return torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.int64), torch.empty(0)
    weights, group = seen.unique(return_inverse=True)
    first = int(weights[0] == -math.inf)
    members = torch.cat([torch.nonzero(group == index)[:, 0] for index in range(len(weights))])
    counts = group.bincount(minlength=len(weights))
    return members[counts[:first].sum() :], counts[first:].cumsum(0), weights[first:] * math.log2(math.e)


def _addresses(*tensors: Tensor | None) -> list[int]:
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


@lru_cache
def _hadamard(m: int) -> Tensor:
    """Rows end in zeros up to a multiple of 16, so that vectors can be loaded anywhere in them."""
    return F.pad(torch.from_numpy(paley(m)).float(), (0, -m % 16))
