"""BARQ, balanced asymmetric rotated quantization: our own method, here its version 1.

What each part of the error asked for, measured one by one (docs/results.md, where it is called best).

- Camera and register tokens keep 8 bits in their activations. They are 5 tokens of a frame (0.5 % at 518x392), carry
  the massive values and everything the cameras are read from, and integer units compute in 8 bits anyway.
- All others use their whole grid: 2^N levels from each token's minimum to its maximum, where a symmetric grid of 3 bits
  uses 7 of its 8. The integers stay within int8, so the product costs the same.
- A constant is taken out of each input: what GELU and LayerNorm's bias leave is far from centred, and a symmetric grid
  spends its range on that. The bias makes up for it exactly.
- Channels are balanced before the rotation, by root mean squares: p_i = (rms x_i / rms w_i)^(1/2). After a rotation
  every channel's rounding error is alike, and this p gives the product of both sides' errors its minimum. Special
  tokens count for little in it, since their own rounding error is small, but not for nothing: the weights' error
  meets them too.
- Weights are rounded by GPTQ against the inputs as the quantized layers before them really give them, with scales
  that are searched for the least error weighted by the inputs' second moments.
Nothing is learned, so it takes little longer than GPTQ.
"""

import copy
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from quantvggt.calibrate.gptq_rounding import gptq_round
from quantvggt.calibrate.methods.base import BlockTask, Method
from quantvggt.core.affine import quantize_weight
from quantvggt.core.errors import InputError
from quantvggt.core.rotation import random_signs
from quantvggt.core.rounding import mse_scale
from quantvggt.core.scheme import ASYMMETRIC_BITS, WEIGHT_BITS, Scheme
from quantvggt.core.transform import Transform
from quantvggt.nn.quant_linear import QuantLinear, mark_frames

FLOOR = 1e-5


class Moments:
    """Per-channel mean and root mean square about it, of whole frames that come in parts.

    special_weight: what one of a frame's first `special` tokens counts, where another one counts 1.
    """

    def __init__(self, special_weight: float, special: int) -> None:
        self.special_weight, self.special = special_weight, special
        self.count, self.total, self.squares = 0.0, torch.zeros(()), torch.zeros(())

    def observe(self, x: Tensor, frame_tokens: int) -> None:
        """x: [.., K], whole frames of so many tokens."""
        frames = x.reshape(-1, frame_tokens, x.shape[-1]).double()
        weight = frames.new_ones(frame_tokens, 1)
        weight[: self.special] = self.special_weight
        self.count += len(frames) * weight.sum().item()
        self.total = self.total.to(x.device) + (frames * weight).sum((0, 1))
        self.squares = self.squares.to(x.device) + (frames.square() * weight).sum((0, 1))

    def mean(self) -> Tensor:
        """float32 [K]."""
        return (self.total / self.count).float()

    def rms(self, about: Tensor) -> Tensor:
        """float32 [K]: the root mean square of x - about."""
        about = about.double()
        return (self.squares / self.count - 2 * about * self.total / self.count + about**2).clamp(min=0).sqrt().float()


class Hessian:
    """X''^T X'' of a layer's rounded inputs, float64 [K, K]; without rounding if the scheme has none."""

    def __init__(self, layer: QuantLinear, special: int) -> None:
        self.layer, self.special, self.value = layer, special, torch.zeros(())

    def observe(self, x: Tensor, frame_tokens: int) -> None:
        """x: [.., K], whole frames of so many tokens."""
        mark_frames(self.layer, frame_tokens, self.special)
        quantizes = self.layer.scheme.quantizes_activations
        x = self.layer.rounded_input(x) if quantizes else self.layer.transform.apply(x)
        x = x.flatten(0, -2)
        self.value = self.value.to(x.device) + (x.t() @ x).double()


@dataclass(frozen=True)
class Barq1(Method):
    """special_bits: width of the special tokens' activations, 0 for that of all others. asymmetric: of all others, up
    to 7 bits. special_weight: what a special token counts in means and balances, where another token counts 1. shift:
    take the mean out. alpha: share of the imbalance that moves into the weights. damping: GPTQ's. seed: of the
    rotations' signs.
    """

    name: ClassVar[str] = "barq-1"

    special_bits: int = 8
    asymmetric: bool = True
    special_weight: float = 0.05
    shift: bool = True
    alpha: float = 0.5
    damping: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1 or not 0 < self.damping <= 1 or self.special_weight < 0:
            raise InputError(
                f"{self.name} needs alpha from 0 to 1, damping above 0 and at most 1, special_weight of 0 or more"
            )
        if self.special_bits not in (0, *WEIGHT_BITS):
            raise InputError(
                f"{self.name} setting special_bits must be 0 (as all others) or 2 to 8, got {self.special_bits!r}"
            )

    @property
    def input_stream(self) -> str:
        return "quantized"

    def refine(self, scheme: Scheme) -> Scheme:
        if scheme.granular or not scheme.quantizes_activations:
            return scheme
        return replace(
            scheme,
            asymmetric=self.asymmetric and scheme.act_bits <= ASYMMETRIC_BITS,
            special_bits=self.special_bits if self.special_bits > scheme.act_bits else None,
        )

    def solve(self, task: BlockTask) -> dict[str, QuantLinear]:
        moments = {layer: self.moments(task.inputs.special) for layer in task.schemes}
        task.observe(task.block, {layer: in_frames(task, each.observe) for layer, each in moments.items()})
        block, layers = copy.deepcopy(task.block), {}
        for layer in task.schemes:
            transform = self.transform(task.site(layer), task.linear(layer), moments[layer])
            layers[layer] = self.round(task, block, layer, transform, moments[layer])
            block.set_submodule(layer, layers[layer])
        return layers

    def moments(self, special: int) -> Moments:
        """What is to be known of a layer's inputs before anything is rounded."""
        return Moments(self.special_weight, special)

    def round(
        self, task: BlockTask, block: nn.Module, layer: str, transform: Transform, moments: Moments
    ) -> QuantLinear:
        """`layer` in integers; `block` has those before it so already."""
        linear, scheme = task.linear(layer), task.schemes[layer]
        weight = transform.apply_to_weight(linear.weight.detach())
        nearest = quantize_weight(weight, scheme.weight_bits)
        hessian = self.hessian(task, block, layer, QuantLinear.from_float(linear, scheme, transform, rounded=nearest))
        return QuantLinear.from_float(linear, scheme, transform, rounded=self.gptq(weight, hessian, scheme))

    def hessian(self, task: BlockTask, block: nn.Module, layer: str, quantized: QuantLinear) -> Tensor:
        """Second moments of what `quantized` makes of the layer's inputs, see `Hessian`."""
        hessian = Hessian(quantized, task.inputs.special)
        task.observe(block, {layer: in_frames(task, hessian.observe)})
        return hessian.value

    def gptq(self, weight: Tensor, hessian: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
        """weight [N, K] -> (int8 [N, K], scale float32 [N, 1])."""
        scale = mse_scale(weight, scheme.weight_bits, norm=2.0, importance=hessian.diagonal().float())
        return gptq_round(weight, hessian, scheme.weight_bits, scale, damping=self.damping, act_order=True)

    def transform(self, site: str, linear: nn.Linear, moments: Moments) -> Transform:
        """Shift, balance, rotate."""
        shift = moments.mean()
        rms = moments.rms(shift if self.shift else torch.zeros_like(shift)).clamp(min=FLOOR)
        weight_rms = linear.weight.detach().float().square().mean(0).sqrt().clamp(min=FLOOR)
        signs = random_signs(linear.in_features, zlib.crc32(f"{self.seed}:{site}".encode())).to(shift.device)
        balance = (rms**self.alpha / weight_rms ** (1 - self.alpha)).clamp(min=FLOOR)
        transform = Transform(presmooth=balance, signs=signs)
        return replace(transform, shift=shift) if self.shift else transform


def in_frames(task: BlockTask, observe: Callable[[Tensor, int], None]) -> Callable[[Tensor], None]:
    """An observer that is told how many tokens a frame has."""
    return lambda x: observe(x, task.inputs.frame_tokens)
