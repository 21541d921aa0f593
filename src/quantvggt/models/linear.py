"""The quantized linear layer: integers and scales instead of a float weight."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.core.affine import dequantize, quantize_weight
from quantvggt.core.errors import InputError
from quantvggt.core.packing import pack_int4, packed_width, unpack_int4
from quantvggt.core.rotation import inner_order, rotate
from quantvggt.core.scheme import Scheme
from quantvggt.kernels.ops import int_linear, rotate_quantize

FLOAT32_BUFFERS = ("weight_scale", "input_smooth", "input_clip")


class QuantLinear(nn.Module):
    """y = X'' W''^T + b with X'' = X diag(v) H / sqrt(K) / c and W'' = W diag(v) H / sqrt(K) * c in few bits.

    Buffers, named as in a checkpoint: `weight_packed` int32 [N, ceil(K / 8)] (weight_bits <= 4) or `weight`
    int8 [N, K]; `weight_scale` float32 [N, 1]; and where they exist `rotation_signs` v int8 [K],
    `input_smooth` c float32 [K], `input_clip` float32 [2] (factors on each token's maximum and minimum) and
    `bias` [N].
    Moving the module to another dtype changes the bias only; scales stay float32.
    The output has the input's dtype, or autocast's where that is on. There is no gradient to the weight.
    """

    rotation_signs: Tensor | None
    input_smooth: Tensor | None
    input_clip: Tensor | None
    bias: Tensor | None
    weight_scale: Tensor

    def __init__(self, in_features: int, out_features: int, scheme: Scheme) -> None:
        super().__init__()
        self.in_features, self.out_features, self.scheme = in_features, out_features, scheme

    @classmethod
    def empty(
        cls,
        in_features: int,
        out_features: int,
        bias: bool,
        scheme: Scheme,
        has_signs: bool,
        has_smooth: bool,
        has_input_clip: bool,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> "QuantLinear":
        """A layer with buffers of the right shapes and no values yet; `dtype` is the bias's.

        Raises InputError if it can't be rotated, or has an input clip but float activations.
        """
        if has_signs:
            inner_order(in_features)
        if has_input_clip and not scheme.quantizes_activations:
            raise InputError(f"scheme {scheme.name} keeps activations in float, so there is no input clip")
        module = cls(in_features, out_features, scheme)

        def add(name: str, present: bool, shape: tuple[int, ...], dtype: torch.dtype) -> None:
            module.register_buffer(name, torch.empty(shape, dtype=dtype, device=device) if present else None)

        if module._packed:
            add("weight_packed", True, (out_features, packed_width(in_features)), torch.int32)
        else:
            add("weight", True, (out_features, in_features), torch.int8)
        add("weight_scale", True, (out_features, 1), torch.float32)
        add("rotation_signs", has_signs, (in_features,), torch.int8)
        add("input_smooth", has_smooth, (in_features,), torch.float32)
        add("input_clip", has_input_clip, (2,), torch.float32)
        add("bias", bias, (out_features,), dtype)
        return module

    @classmethod
    def from_float(
        cls,
        linear: nn.Linear,
        scheme: Scheme,
        signs: Tensor | None = None,
        smooth: Tensor | None = None,
        weight_clip: Tensor | None = None,
        input_clip: Tensor | None = None,
    ) -> "QuantLinear":
        """Quantize `linear`: rotate its rows by `signs` [K], multiply by `smooth` [K], clamp, round.

        `weight_clip` [N, 2] and `input_clip` [2] hold factors in (0, 1] on the maximum and the minimum of
        each weight row or token. The arithmetic is float32 whatever the weight's dtype.
        Raises InputError if an argument has the wrong shape or values that can't be meant.
        """
        rows, k = linear.weight.shape
        _check("signs", signs, (k,), lambda v: v.abs() == 1, "+1 or -1")
        _check("smooth", smooth, (k,), lambda c: (c > 0) & c.isfinite(), "positive")
        for name, clip, shape in (("weight_clip", weight_clip, (rows, 2)), ("input_clip", input_clip, (2,))):
            _check(name, clip, shape, lambda f: (f > 0) & (f <= 1), "above 0 and at most 1")
        module = cls.empty(
            k,
            rows,
            linear.bias is not None,
            scheme,
            has_signs=signs is not None,
            has_smooth=smooth is not None,
            has_input_clip=input_clip is not None,
            dtype=linear.weight.dtype,
            device=linear.weight.device,
        )
        weight = linear.weight.detach().float()
        values = {
            "rotation_signs": signs,
            "input_smooth": smooth,
            "input_clip": input_clip,
            "bias": linear.bias,
        }
        for name, value in values.items():
            if value is not None:
                module.get_buffer(name).copy_(value.detach())
        if module.rotation_signs is not None:
            weight = rotate(weight, module.rotation_signs)
        if module.input_smooth is not None:
            weight = weight * module.input_smooth
        if weight_clip is not None:
            weight_clip = weight_clip.to(weight.device)
        q, scale = quantize_weight(weight, scheme.weight_bits, weight_clip)
        module.weight_scale.copy_(scale)
        if module._packed:
            module.get_buffer("weight_packed").copy_(pack_int4(q))
        else:
            module.get_buffer("weight").copy_(q)
        return module

    @property
    def _packed(self) -> bool:
        return self.scheme.weight_bits <= 4

    def integer_weight(self) -> Tensor:
        """int8 [N, K], unpacked if need be."""
        if self._packed:
            return unpack_int4(self.get_buffer("weight_packed"), self.in_features)
        return self.get_buffer("weight")

    def dequantized_weight(self) -> Tensor:
        """W'' as float32 [N, K], in the rotated and smoothed basis of X''."""
        return dequantize(self.integer_weight(), self.weight_scale)

    def forward(self, x: Tensor) -> Tensor:
        dtype = _output_dtype(x)
        if self.scheme.quantizes_activations:
            q, row_scale = rotate_quantize(
                x, self.rotation_signs, self.input_smooth, self.input_clip, self.scheme.act_bits
            )
            weight = self.get_buffer("weight_packed" if self._packed else "weight")
            return int_linear(q, row_scale, weight, self.weight_scale, self.bias, dtype)
        if self.rotation_signs is not None:
            x = rotate(x, self.rotation_signs)
        if self.input_smooth is not None:
            x = x / self.input_smooth
        bias = None if self.bias is None else self.bias.to(dtype)
        return F.linear(x.to(dtype), self.dequantized_weight().to(dtype), bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, scheme={self.scheme.name}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantLinear":
        scales = {name: self._buffers.get(name) for name in FLOAT32_BUFFERS}
        super()._apply(fn, recurse)
        for name, before in scales.items():
            after = self._buffers.get(name)
            if before is not None and after is not None and after.dtype != before.dtype:
                self._buffers[name] = before.to(after.device)
        return self


def _output_dtype(x: Tensor) -> torch.dtype:
    device = x.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if autocast else x.dtype


def _check(name: str, value: Tensor | None, shape: tuple[int, ...], legal: Callable[[Tensor], Any], words: str) -> None:
    if value is not None and tuple(value.shape) != shape:
        raise InputError(f"{name} has shape {list(value.shape)}; this layer needs {list(shape)}")
    if value is not None and not legal(value).all():
        raise InputError(f"every number in {name} must be {words}")
