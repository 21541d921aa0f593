"""Quantized layers without values yet."""

import torch
from torch import nn

from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.nn.quant_conv import QuantConv2d
from quantvggt.nn.quant_linear import QuantLinear
from quantvggt.nn.quant_weight import QuantWeight
from quantvggt.nn.tensors import Shapes


def empty_layer(module: nn.Module, scheme: Scheme, optional: Shapes, device: torch.device | str) -> QuantWeight:
    """A quantized layer in the shape of `module`, an nn.Linear, nn.Conv2d or nn.ConvTranspose2d.

    optional: name in `nn.tensors.OPTIONAL` -> shape.
    Raises InputError if the layer can't be quantized so, or has no such tensors.
    """
    if isinstance(module, nn.Linear):
        return QuantLinear.empty(module, scheme, optional, device)
    assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d), module
    if optional:
        raise InputError(f"a convolution has no {sorted(optional)}")
    return QuantConv2d.empty(module, scheme, device)
