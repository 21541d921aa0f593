"""A linear layer together with what stands around it in a block, in one go where the layer is quantized."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.nn.quant_linear import QuantLinear


class LayerScale(nn.Module):
    """Per-channel gain on a residual branch (CaiT, arXiv 2103.17239)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), 0.01))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


def linear_steps(
    layer: nn.Module,
    x: Tensor,
    norm: nn.LayerNorm | None = None,
    gelu: bool = False,
    gain: LayerScale | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """residual + gain(gelu(layer(norm(x)))), each step where it is asked for: x [.., K] -> [.., N].

    A quantized layer takes all of them into its two kernels, which compute in float32 and round once, where single
    modules round to their dtype one after the other. Step by step it goes where gradients are wanted, where the norm is
    of a class of its own or has no weight, and where somebody watches the layer, its norm or its gain by a hook, so
    that hooks see what they always see.
    """
    if isinstance(layer, QuantLinear) and layer.takes_steps and not torch.is_grad_enabled():
        usual = norm is None or (norm.__class__ is nn.LayerNorm and norm._parameters["weight"] is not None)
        if usual and not (_watched(layer) or _watched(norm) or _watched(gain)):
            return layer.forward(x, norm, gelu, None if gain is None else gain._parameters["gamma"], residual)
    y: Tensor = layer(x if norm is None else norm(x))
    if gelu:
        y = F.gelu(y)
    if gain is not None:
        y = gain(y)
    return y if residual is None else residual + y


def _watched(module: nn.Module | None) -> bool:
    return module is not None and bool(module._forward_hooks or module._forward_pre_hooks)
