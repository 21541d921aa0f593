"""The integer ops on one path of the native library: check the tensors, hand over their addresses."""

import ctypes
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from quantvggt.core.rotation import inner_order, paley
from quantvggt.kernels import reference
from quantvggt.kernels.cpu import proof
from quantvggt.kernels.cpu.build import function, usable

TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}  # `Type` in native/args.h
# Fields of `RotateArgs` in native/args.h.
_ROTATE_POINTERS = (
    "x",
    "norm_weight",
    "norm_bias",
    "shift",
    "presmooth",
    "signs",
    "hadamard",
    "smooth",
    "clip",
    "q",
    "scale",
)
_ROTATE_NUMBERS = ("x_type", "rows", "d", "m", "bits", "frame_tokens", "special_tokens", "special_bits", "asymmetric")
# Fields of `LinearArgs`.
_LINEAR_POINTERS = ("q", "row_scale", "weight", "weight_scale", "bias", "gain", "residual", "out")
_LINEAR_NUMBERS = ("out_type", "residual_type", "packed", "gelu", "m", "n", "k", "threads")


class _RotateArgs(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in _ROTATE_POINTERS),
        *((name, ctypes.c_int64) for name in (*_ROTATE_NUMBERS, "threads")),
        ("factor", ctypes.c_float),
        ("norm_eps", ctypes.c_float),
    )


class _LinearArgs(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in _LINEAR_POINTERS),
        *((name, ctypes.c_int64) for name in _LINEAR_NUMBERS),
    )


class CpuPath:
    """Both ops on the path `name`, one of `build.PATHS`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def check(self, device: torch.device) -> tuple[bool, str]:
        """Can this path run on `device`, and why (not)? The first call for a CPU builds the library."""
        if device.type != "cpu":
            return False, "CPU only"
        can, reason = usable(self.name, "int_linear")
        if can and self.name in proof.UNPROVEN and not self._proven:
            return False, proof.REASON
        return can, reason

    @cached_property
    def _proven(self) -> bool:
        return proof.products_agree(self.int_linear)

    def rotate_quantize(
        self,
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
        d = x.shape[-1]
        m = 1 if signs is None else inner_order(d)
        wide = any(v is not None and v.dtype != torch.float32 for v in (shift, presmooth, smooth))
        if not x.numel() or x.dtype not in TYPES or wide:
            special = frame_tokens, special_tokens, special_bits
            norm = norm_weight, norm_bias, norm_eps
            return reference.rotate_quantize(
                x, signs, smooth, clip, bits, shift, presmooth, *special, asymmetric, *norm
            )
        reference.check_frames(x, frame_tokens)
        x = x.contiguous()
        q = torch.empty(x.shape, dtype=torch.int8)
        scale = torch.empty((*x.shape[:-1], 1))
        inputs = (
            vector(norm_weight, torch.float32, d, "norm_weight"),
            vector(norm_bias, torch.float32, d, "norm_bias"),
            vector(shift, torch.float32, d, "shift"),
            vector(presmooth, torch.float32, d, "presmooth"),
            vector(signs, torch.int8, d, "signs"),
            _hadamard(m) if m > 1 else None,
            vector(smooth, torch.float32, d, "smooth"),
            vector(clip, torch.float32, 2, "clip"),
        )
        pointers = (x, *inputs, q, scale)
        widths = (bits, frame_tokens, special_tokens, special_bits, asymmetric)
        numbers = (TYPES[x.dtype], x.numel() // d, d, m, *widths, torch.get_num_threads(), d**-0.5, norm_eps)
        function(self.name, "rotate_quantize")(ctypes.byref(_RotateArgs(*map(address, pointers), *numbers)))
        return q, scale

    def int_linear(
        self,
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
        wide = any(v is not None and v.dtype not in TYPES for v in (bias, gain, residual))
        if not q.numel() or not len(weight) or out_dtype not in TYPES or wide:
            return reference.int_linear(q, row_scale, weight, weight_scale, bias, out_dtype, gelu, gain, residual)
        n, k = len(weight), q.shape[-1]
        reference.check_weight(weight, k)
        q = q.contiguous()
        rows = q.numel() // k
        shape = (*q.shape[:-1], n)
        reference.check_residual(residual, shape)
        y = torch.empty(shape, dtype=out_dtype)
        pointers = (
            q,
            vector(row_scale, torch.float32, rows, "row_scale"),
            weight.contiguous(),
            vector(weight_scale, torch.float32, n, "weight_scale"),
            vector(bias, torch.float32, n, "bias"),
            vector(gain, torch.float32, n, "gain"),
            None if residual is None else residual.contiguous(),
            y,
        )
        types = TYPES[out_dtype], 0 if residual is None else TYPES[residual.dtype]
        numbers = (*types, weight.dtype == torch.int32, gelu, rows, n, k, torch.get_num_threads())
        function(self.name, "int_linear")(ctypes.byref(_LinearArgs(*map(address, pointers), *numbers)))
        return y


def vector(values: Tensor | None, dtype: torch.dtype, count: int, name: str) -> Tensor | None:
    """`values` as `count` contiguous numbers: the native code trusts the sizes it is told."""
    if values is None:
        return None
    if values.numel() != count:
        raise ValueError(f"{name} has {values.numel()} values; {count} are needed")
    # Most are as they should be, and on small layers every call counts.
    return values if values.dtype == dtype and values.is_contiguous() else values.to(dtype).contiguous()


def address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


@lru_cache
def _hadamard(m: int) -> Tensor:
    return torch.from_numpy(paley(m)).float()
