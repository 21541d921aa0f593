"""The quantized convolution: a weight in few bits, activations in floating point."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.core.affine import quantize_weight
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.nn.quant_weight import QuantWeight

Conv = nn.Conv2d | nn.ConvTranspose2d


class QuantConv2d(QuantWeight):
    """nn.Conv2d or nn.ConvTranspose2d with groups and dilation of 1, its weight as integers [N, K].

    N are the output channels, K = kernel rows * kernel columns * input channels in that order, the last fastest: so the
    dequantized weight lies as channels_last has it. The weight is made floating point, in the input's dtype, for each
    call: next to the convolution of a whole map that costs nothing. Sums over a window cross tokens, which each have a
    scale of their own, so there are no integer activations.
    """

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
        weight = self.dequantized_weight().to(x.dtype).unflatten(1, (*self.kernel, -1))  # [N, rows, columns, C]
        bias = None if self.bias is None else self.bias.to(x.dtype)
        if self.transposed:
            return F.conv_transpose2d(x, weight.permute(3, 0, 1, 2), bias, self.stride, self.padding)  # type: ignore[arg-type]
        return F.conv2d(x, weight.permute(0, 3, 1, 2), bias, self.stride, self.padding)


def flat_weight(conv: Conv) -> Tensor:
    """The float weight as [N, K], in the order of `QuantConv2d`."""
    order = (1, 2, 3, 0) if isinstance(conv, nn.ConvTranspose2d) else (0, 2, 3, 1)
    return conv.weight.detach().permute(order).flatten(1)
