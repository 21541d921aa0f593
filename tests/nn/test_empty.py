"""An empty layer takes the state of a quantized one, whatever that was made of."""

import pytest
import torch
from torch import nn

from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.nn.empty import empty_layer
from quantvggt.nn.quant_conv import QuantConv2d
from quantvggt.nn.quant_linear import QuantLinear
from quantvggt.nn.quant_weight import QuantWeight
from quantvggt.nn.tensors import optional_shapes


@pytest.mark.parametrize("shift", [None, torch.ones(8)])
@pytest.mark.parametrize("bias", [False, True])
def test_linear_layers_with_and_without_bias(bias: bool, shift: torch.Tensor | None) -> None:
    linear = nn.Linear(8, 3, bias=bias).bfloat16()
    made = QuantLinear.from_float(linear, Scheme.parse("w4a4"), Transform(shift=shift))
    check(made, empty_layer(linear, made.scheme, optional_shapes(made.state_dict()), "meta"))


@pytest.mark.parametrize("conv", [nn.Conv2d(4, 6, 3), nn.ConvTranspose2d(4, 6, 2, bias=False)])
def test_convolutions(conv: nn.Conv2d | nn.ConvTranspose2d) -> None:
    made = QuantConv2d.from_float(conv, Scheme.parse("w8a16"))
    check(made, empty_layer(conv, made.scheme, {}, "cpu"))
    with pytest.raises(InputError, match=r"a convolution has no \['input_shift'\]"):
        empty_layer(conv, made.scheme, {"input_shift": (4,)}, "cpu")


def check(made: QuantWeight, empty: QuantWeight) -> None:
    def described(layer: QuantWeight) -> dict[str, tuple[torch.Size, torch.dtype]]:
        return {name: (value.shape, value.dtype) for name, value in layer.state_dict().items()}

    assert described(empty) == described(made)
    empty.load_state_dict(made.state_dict(), assign=True)
    assert torch.equal(empty.dequantized_weight(), made.dequantized_weight())
