"""The quantized convolution: a weight in few bits, activations in floating point."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.core.affine import quantize_weight
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.kernels.ops import dequantize_weight
from quantvggt.nn.quant_weight import QuantWeight

Conv = nn.Conv2d | nn.ConvTranspose2d
HELD = 1 << 19  # numbers, or twice as many of a 1x1: all such layers of VGGT-1B together take 17 MB in bfloat16


class Held(NamedTuple):
    """A float weight, and the integers and scales that it was made of, with their versions."""

    of: tuple[Tensor, Tensor]
    versions: tuple[int, int]
    weight: Tensor


class QuantConv2d(QuantWeight):
    """nn.Conv2d or nn.ConvTranspose2d with groups and dilation of 1, its weight as integers [N, K].

    N are the output channels, K = kernel rows * kernel columns * input channels in that order, the last fastest: so the
    dequantized weight lies as channels_last has it. The weight is made floating point, in the input's dtype, for each
    call: next to the convolution of a whole map that costs nothing. Only one of up to `HELD` numbers is kept, since
    asking for it may take longer than its convolution, and a 1x1 of up to twice as many: PyTorch lays out any other
    float weight channels last for each call, which takes as long. Sums over a window cross tokens, which each have a
    scale of their own, so there are no integer activations.
    """

    _float: Held | None = None

    def __init__(self, conv: Conv, scheme: Scheme) -> None:
        if scheme.quantizes_activations:
            raise InputError(f"convolutions keep float activations: use {scheme.weights_only.name}, not {scheme.name}")
        if conv.groups != 1 or set(conv.dilation) != {1} or conv.padding_mode != "zeros":
            raise InputError("only plain convolutions can be quantized: groups 1, dilation 1, zero padding")
        rows, columns = conv.kernel_size
        super().__init__(rows * columns * conv.in_channels, conv.out_channels, scheme)
        self.transposed = isinstance(conv, nn.ConvTranspose2d)
        self.kernel, self.stride, self.padding = conv.kernel_size, conv.stride, conv.padding

    @classmethod
    def empty(cls, conv: Conv, scheme: Scheme, device: torch.device | str = "cpu") -> "QuantConv2d":
        """A layer in the shape of `conv`, with buffers and no values yet."""
        module = cls(conv, scheme)
        module._add_weight(device)
        bias = None if conv.bias is None else (conv.out_channels,)
        module._add("bias", bias, conv.weight.dtype, device)
        return module

    @classmethod
    def from_float(cls, conv: Conv, scheme: Scheme, rounded: tuple[Tensor, Tensor] | None = None) -> "QuantConv2d":
        """Quantize `conv`, to nearest unless `rounded` = (int8 [N, K], scale [N, 1]) is given."""
        module = cls.empty(conv, scheme, conv.weight.device)
        module.set_weight(*(rounded or quantize_weight(flat_weight(conv), scheme.weight_bits)))
        if module.bias is not None and conv.bias is not None:
            module.bias.copy_(conv.bias.detach())
        return module

    def forward(self, x: Tensor) -> Tensor:
        small = self.out_features * self.in_features <= (2 * HELD if self.kernel == (1, 1) else HELD)
        weight = self._held(x.dtype) if small else self.float_weight(x.dtype)
        bias = self._buffers["bias"]
        bias = None if bias is None else bias.to(x.dtype)
        if self.transposed:
            return F.conv_transpose2d(x, weight, bias, self.stride, self.padding)  # type: ignore[arg-type]
        return F.conv2d(x, weight, bias, self.stride, self.padding)

    def float_weight(self, dtype: torch.dtype) -> Tensor:
        """The weight that the integers stand for as PyTorch's convolutions take it, in channels_last."""
        rows, columns = self.kernel
        inputs = self.in_features // (rows * columns)
        weight = dequantize_weight(
            self.stored_weight, self.weight_scale, self.in_features, dtype, inputs if self.transposed else None
        )
        outer, inner = (inputs, -1) if self.transposed else (-1, inputs)
        return weight.view(outer, rows, columns, inner).permute(0, 3, 1, 2)

    def _held(self, dtype: torch.dtype) -> Tensor:
        """`float_weight`, made again only after the integers or scales were replaced or written into."""
        stored, scale, held = self.stored_weight, self._buffers["weight_scale"], self._float
        assert scale is not None
        if torch.compiler.is_compiling() or stored.is_inference() or scale.is_inference():
            return self.float_weight(dtype)  # nobody counts what is written into these
        versions = stored._version, scale._version
        if held is None or not (held.of[0] is stored and held.of[1] is scale and held.versions == versions):
            held = None
        if held is None or held.weight.dtype is not dtype:
            with torch.inference_mode(False), torch.no_grad():
                held = self._float = Held((stored, scale), versions, self.float_weight(dtype))
        return held.weight


def flat_weight(conv: Conv) -> Tensor:
    """The float weight as [N, K], in the order of `QuantConv2d`."""
    order = (1, 2, 3, 0) if isinstance(conv, nn.ConvTranspose2d) else (0, 2, 3, 1)
    return conv.weight.detach().permute(order).flatten(1)
