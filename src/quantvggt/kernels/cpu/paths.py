"""The ops on the paths of the native library: which steps it takes, and how it gets their tensors' addresses."""

import ctypes
import math
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from quantvggt.core.rotation import inner_order, paley
from quantvggt.kernels.contract import Attention, Backend, DequantizeWeight, IntLinear, RotateQuantize
from quantvggt.kernels.cpu import build, proof
from quantvggt.kernels.cpu.structs import STRUCTS

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # `Type` in native/args.h
HEAD_SIZES = (32, 64, 128)


class CpuPath(Backend):
    """One op on the path `path`, one of `build.PATHS` or `build.ATTENTION_PATHS`, of the library that `load` gives."""

    OP: ClassVar[str]
    STRUCT: ClassVar[str]

    def __init__(self, path: str, load: Callable[[], build.Loaded] = build.library) -> None:
        self.name, self.path, self._load = f"cpu-{path}", path, load

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
    def _function(self) -> Callable[[Any], int]:
        library, _ = self._load()
        assert library is not None
        found: Callable[[Any], int] = getattr(library.native, f"{self.path}_{self.OP}")
        return found

    def _agrees(self) -> bool:
        """With the reference, where instructions that most CPUs lack are used."""
        return True

    def _call(self, **fields: Any) -> None:
        """Raises MemoryError if there is none left."""
        args = STRUCTS[self.STRUCT](threads=torch.get_num_threads(), **fields)
        if self._function(ctypes.byref(args)):
            raise MemoryError(f"{self.OP}: no memory for the scratch of its threads")


class RotatePath(CpuPath):
    OP, STRUCT = RotateQuantize.OP, "RotateArgs"

    def accepts(self, step: RotateQuantize) -> str | None:
        return None if step.x.numel() else "there are no rows"

    def _agrees(self) -> bool:
        return proof.low_rank_agrees(self.run)

    def run(self, step: RotateQuantize) -> tuple[Tensor, Tensor]:
        x = step.x
        d = x.shape[-1]
        m = 1 if step.signs is None else inner_order(d)
        q, scale = step.empty()
        self._call(
            x=_address(x),
            norm_weight=_address(step.norm_weight),
            norm_bias=_address(step.norm_bias),
            shift=_address(step.shift),
            presmooth=_address(step.presmooth),
            signs=_address(step.signs),
            hadamard=_address(_hadamard(m) if m > 1 else None),
            smooth=_address(step.smooth),
            clip=_address(step.clip),
            basis=_address(step.basis),
            basis_scale=_address(step.basis_scale),
            q=_address(q),
            scale=_address(scale),
            x_type=TYPES[x.dtype],
            rows=x.numel() // d,
            d=d,
            m=m,
            bits=step.bits,
            rank=step.rank,
            frame_tokens=step.frame_tokens,
            special_tokens=step.special_tokens,
            special_bits=step.special_bits,
            asymmetric=step.asymmetric,
            factor=d**-0.5,
            norm_eps=step.norm_eps,
        )
        return q, scale


class LinearPath(CpuPath):
    OP, STRUCT = IntLinear.OP, "LinearArgs"

    def accepts(self, step: IntLinear) -> str | None:
        if step.out_dtype not in TYPES:
            return "its output is never float64"
        return None if step.q.numel() and len(step.weight) else "there are no rows or no columns"

    def _agrees(self) -> bool:
        return proof.products_agree(self.run)

    def run(self, step: IntLinear) -> Tensor:
        y = step.empty()
        self._call(
            q=_address(step.q),
            row_scale=_address(step.row_scale),
            weight=_address(step.weight),
            weight_scale=_address(step.weight_scale),
            branch=_address(step.branch),
            branch_scale=_address(step.branch_scale),
            bias=_address(step.bias),
            gain=_address(step.gain),
            residual=_address(step.residual),
            out=_address(y),
            out_type=TYPES[step.out_dtype],
            residual_type=0 if step.residual is None else TYPES[step.residual.dtype],
            packed=step.weight.dtype is torch.int32,
            gelu=step.gelu,
            m=step.rows,
            n=len(step.weight),
            k=step.channels,
            rank=step.rank,
        )
        return y


class DequantizePath(CpuPath):
    OP, STRUCT = DequantizeWeight.OP, "DequantizeArgs"

    def accepts(self, step: DequantizeWeight) -> str | None:
        if step.out_dtype not in TYPES:
            return "its output is never float64"
        return None if len(step.weight) else "there are no rows"

    def run(self, step: DequantizeWeight) -> Tensor:
        out = step.empty()
        self._call(
            weight=_address(step.weight),
            weight_scale=_address(step.weight_scale),
            out=_address(out),
            out_type=TYPES[step.out_dtype],
            packed=step.weight.dtype is torch.int32,
            n=len(step.weight),
            k=step.channels,
            inputs=step.inputs or 0,
        )
        return out


class AttentionPath(CpuPath):
    OP, STRUCT = Attention.OP, "AttentionArgs"

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
        q_weight, q_bias, k_weight, k_bias = map(_address, norms)
        self._call(
            qkv=_address(step.qkv),
            q_weight=q_weight,
            q_bias=q_bias,
            k_weight=k_weight,
            k_bias=k_bias,
            cosine=_address(step.cosine),
            sine=_address(step.sine),
            members=_address(members),
            group_ends=_address(ends),
            group_weights=_address(weights),
            workspace=_address(workspace),
            out=_address(out),
            batch=batch,
            n=n,
            heads=heads,
            d=d,
            frame_tokens=n if step.cosine is None else len(step.cosine),
            frame_length=length,
            groups=len(ends),
            eps=step.eps,
            scale=math.log2(math.e) / math.sqrt(d),
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


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@lru_cache
def _hadamard(m: int) -> Tensor:
    """Rows end in zeros up to a multiple of 16, so that vectors can be loaded anywhere in them."""
    return F.pad(torch.from_numpy(paley(m)).float(), (0, -m % 16))
