"""What the paper leaves at 16 bits and no method has a block for: layers by themselves, rounded to nearest."""

from torch import Tensor, nn

from quantvggt.core.errors import InputError
from quantvggt.core.rounding import mse_scale, nearest_round
from quantvggt.core.scheme import Scheme
from quantvggt.nn.quant_conv import QuantConv2d, flat_weight
from quantvggt.nn.quant_linear import QuantLinear
from quantvggt.nn.quant_weight import QuantWeight, round_weight

SEARCHED_BITS = 4  # wider ones gain nothing from another scale than the largest weight's


def rest_scheme(scheme: Scheme, module: nn.Module) -> Scheme:
    """What `scheme` means for a layer of a head: convolutions keep float activations, see `nn.quant_conv`, and integer
    weights where linear layers have float8.

    Raises InputError if it depends on frames of tokens, which heads don't have.
    """
    if scheme.per_tensor or scheme.static:
        raise InputError(f"scheme {scheme.name} is not for heads; use one without -tensor and -static there")
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        return scheme.weights_only
    return scheme.plain


def round_layer(module: nn.Module, scheme: Scheme, search: bool) -> QuantWeight:
    """A quantized linear layer or convolution; search: for each output channel's scale of least squared error."""
    if isinstance(module, nn.Linear):
        return QuantLinear.from_float(module, scheme, rounded=_round(module.weight.detach(), scheme, search))
    assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d)
    return QuantConv2d.from_float(module, scheme, _round(flat_weight(module), scheme, search))


def _round(weight: Tensor, scheme: Scheme, search: bool) -> tuple[Tensor, Tensor]:
    if not search or scheme.weight_bits > SEARCHED_BITS:
        return round_weight(weight, scheme)
    scale = mse_scale(weight, scheme.weight_bits, norm=2.0)
    return nearest_round(weight, scheme.weight_bits, scale), scale
