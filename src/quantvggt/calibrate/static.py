"""Static activation ranges: what a finished layer's input reaches on the calibration set."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from quantvggt.calibrate.methods.base import BlockTask
from quantvggt.core.affine import row_ranges
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.nn.quant_linear import QuantLinear
from quantvggt.nn.tensors import optional_shapes


def with_static_ranges(
    task: BlockTask, layers: dict[str, QuantLinear], schemes: Mapping[str, Scheme]
) -> dict[str, QuantLinear]:
    """`layers`, those whose scheme in `schemes` (by site) is static with ranges read off the float block's inputs.

    Per tensor the largest and smallest number of all clips; per token those of each position in a frame.
    Raises InputError if the latter is asked of clips of several sizes.
    """
    static = {layer: schemes[task.site(layer)] for layer in layers if schemes[task.site(layer)].static}
    ranges: dict[str, Tensor] = {}
    sizes = {x.shape[1] for x in task.inputs.tokens}
    if len(sizes) > 1 and not all(scheme.per_tensor for scheme in static.values()):
        raise InputError("static ranges per token need calibration images of one size; crop them, or add -tensor")

    def observe(layer: str, x: Tensor) -> None:
        high, low = row_ranges(layers[layer].transform.apply(x))
        rows = torch.cat((high, low), -1).view(-1, 1 if static[layer].per_tensor else min(sizes), 2)
        extremes = torch.stack((rows[..., 0].amax(0), rows[..., 1].amin(0)), -1)
        old = ranges.get(layer, extremes)
        widest = torch.maximum(old[:, 0], extremes[:, 0]), torch.minimum(old[:, 1], extremes[:, 1])
        ranges[layer] = torch.stack(widest, -1)

    if static:
        task.observe(task.block, {layer: partial(observe, layer) for layer in static})
    return layers | {
        layer: _static(task.linear(layer), layers[layer], scheme, ranges[layer]) for layer, scheme in static.items()
    }


def _static(linear: nn.Linear, layer: QuantLinear, scheme: Scheme, ranges: Tensor) -> QuantLinear:
    tensors = dict(layer.named_buffers()) | {"input_range": ranges}
    result = QuantLinear.empty(linear, scheme, optional_shapes(tensors), linear.weight.device)
    for name, value in tensors.items():
        result.get_buffer(name).copy_(value)
    return result
