"""FlatQuant: a learned affine map in front of every layer that makes activations and weights flat.

"FlatQuant: Flatness Matters for LLM Quantization", arXiv 2410.09426, section 3, with the published code's settings:
the map is diag(1 / p) (L (x) R), L and R of the most balanced sizes that multiply to K (section 3.2), beginning at
random orthogonal matrices, p at SmoothQuant's factor with alpha 0.3; beside it clipping of both sides is learned
(sigmoid of a number that starts at 4, per output channel for weights, per layer for activations). Each block is fitted
to the float block's output on float inputs by mean squared error, 15 epochs of AdamW, cosine from 5e-3, ten times as
much for clipping.

Adapted: qkv, proj, fc1 and fc2 have one input each and so each its own map; proj's is balanced too instead of heads (x)
head width with the second factor inside V, and no keys or values are quantized, so maps made for a KV cache have no
place. L and R are learned directly and inverted (the published `direct_inv`, instead of an SVD of Cayley maps: both
reach every invertible map; the SVD saves inversions in half precision). One clip of all its frames a step instead of 4
sequences, without weight decay, and cosine to zero instead of a thousandth.
"""

import math
import zlib
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from quantvggt.calibrate.fake_quant import CLIP_LOGIT, FakeQuantLinear, NearestWeight
from quantvggt.calibrate.learn import fake_block, freeze, reconstruct
from quantvggt.calibrate.methods.base import BlockTask, Method
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.nn.quant_linear import QuantLinear

FLOOR = 1e-5


@dataclass(frozen=True)
class FlatQuant(Method):
    """epochs: passes over the calibration set for each block. learning_rate: of the maps; clipping learns `clip_rate`
    times as fast. alpha: share of the activations' outliers that the initial p moves into the weights. seed: of the
    initial maps and the order of clips.
    """

    name: ClassVar[str] = "flatquant"

    epochs: int = 15
    learning_rate: float = 5e-3
    clip_rate: float = 10.0
    alpha: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.learning_rate <= 0 or self.clip_rate <= 0:
            raise InputError(f"{self.name} needs epochs of 0 or more, learning_rate and clip_rate above 0")
        if not 0 <= self.alpha <= 1:
            raise InputError(f"{self.name} setting alpha must lie between 0 and 1, got {self.alpha}")

    @property
    def ticks(self) -> int:
        return self.epochs

    def solve(self, task: BlockTask) -> dict[str, QuantLinear]:
        peaks: dict[str, Tensor] = {}

        def observe(layer: str, x: Tensor) -> None:
            peak = x.flatten(0, -2).float().abs().amax(0)
            peaks[layer] = torch.maximum(peaks.get(layer, peak), peak)

        task.observe(task.block, {layer: partial(observe, layer) for layer in task.schemes})
        layers = {
            layer: self.start(task.site(layer), task.linear(layer), scheme, peaks[layer])
            for layer, scheme in task.schemes.items()
        }
        parts = [part for module in layers.values() for part in module.named_parameters()]
        maps = [parameter for name, parameter in parts if name.startswith("learned.")]
        clips = [parameter for name, parameter in parts if name.endswith("clip_logit")]
        groups = [
            {"params": maps, "lr": self.learning_rate},
            {"params": clips, "lr": self.learning_rate * self.clip_rate},
        ]
        reconstruct(task, fake_block(task, layers), groups, self.epochs, self.seed)
        return freeze(layers)

    def start(self, site: str, linear: nn.Linear, scheme: Scheme, peak: Tensor) -> FakeQuantLinear:
        """The layer before learning. peak: float32 [K], the largest magnitude of each input channel."""
        rows, device = linear.out_features, linear.weight.device
        weight_peak = linear.weight.detach().float().abs().amax(0).clamp(min=FLOOR)
        presmooth = (peak.clamp(min=FLOOR) ** self.alpha / weight_peak ** (1 - self.alpha)).clamp(min=FLOOR)
        generator = torch.Generator().manual_seed(zlib.crc32(f"{self.seed}:{site}".encode()))
        left, right = (orthogonal(size, generator).to(device) for size in balanced(linear.in_features))
        return FakeQuantLinear(
            linear,
            scheme,
            Transform(presmooth=presmooth, left=left, right=right),
            learn=("presmooth", "left", "right"),
            clip_logit=torch.full((2,), CLIP_LOGIT, device=device) if scheme.quantizes_activations else None,
            weight_rounding=NearestWeight(torch.full((rows, 2), CLIP_LOGIT, device=device)),
        )


def balanced(size: int) -> tuple[int, int]:
    """The two factors of `size` that lie closest together, the smaller one first."""
    small = next(a for a in range(math.isqrt(size), 0, -1) if size % a == 0)
    return small, size // small


def orthogonal(size: int, generator: torch.Generator) -> Tensor:
    """A random orthogonal matrix, uniformly distributed, float32 [size, size]."""
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return (q * r.diagonal().sign()).float()
