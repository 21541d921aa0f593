"""Dual-smoothed fine-grained quantization (QuantVGGT, arXiv 2509.21302, section 3.2).

A random Hadamard rotation spreads outliers over all channels; what is left of them after the rotation is
balanced between activations and weights by one factor per channel. `dsfq` stops there; `dsfq-learned` goes on and
learns the factors and the clipping of both sides, block by block.
"""

import zlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from quantvggt.calibrate.fake_quant import CLIP_LOGIT, FakeQuantLinear, NearestWeight
from quantvggt.calibrate.learn import fake_block, freeze, reconstruct
from quantvggt.calibrate.methods.base import BlockTask, SiteMethod, SiteSolver
from quantvggt.core.errors import InputError
from quantvggt.core.rotation import random_signs, rotate
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.nn.quant_linear import QuantLinear

FLOOR = 1e-5
ORDERS = ("rotate-scale", "scale-rotate")


class Solver(SiteSolver):
    """The closed form of one layer; `signs` is None without rotation."""

    def __init__(self, linear: nn.Linear, signs: Tensor | None, settings: "DSFQ") -> None:
        self.linear, self.signs, self.settings = linear, signs, settings
        self.peak: Tensor | None = None  # running mean over clips of max over tokens |(XH)_i|, float32 [K]

    @property
    def _rotates_first(self) -> bool:
        return self.signs is not None and self.settings.order == "rotate-scale"

    def observe(self, x: Tensor) -> None:
        x = x.flatten(0, -2).float()
        if self.signs is not None and self._rotates_first:
            x = rotate(x, self.signs)
        peak = x.abs().amax(dim=0)
        self.peak = peak if self.peak is None else torch.lerp(peak, self.peak, self.settings.momentum)

    def transform(self) -> Transform:
        """Rotation and smoothing, as the settings have them."""
        if not self.settings.smoothing:
            return Transform(signs=self.signs)
        assert self.peak is not None, "transform() before observe()"
        weight = self.linear.weight.detach().float()
        if self.signs is not None and self._rotates_first:
            weight = rotate(weight, self.signs)
        alpha = self.settings.alpha
        peak, weight_peak = self.peak.clamp(min=FLOOR), weight.abs().amax(dim=0).clamp(min=FLOOR)
        smooth = (peak**alpha / weight_peak ** (1 - alpha)).clamp(min=FLOOR)
        if self._rotates_first or self.signs is None:
            return Transform(signs=self.signs, smooth=smooth)
        return Transform(presmooth=smooth, signs=self.signs)

    def solve(self, scheme: Scheme) -> QuantLinear:
        return QuantLinear.from_float(self.linear, scheme, self.transform())


@dataclass(frozen=True)
class DSFQ(SiteMethod):
    """alpha: share of the outliers moved into the weights, c_i = max|(XH)_i|^alpha / max|(WH)_i|^(1 - alpha).

    momentum: of the running mean of per-clip maxima, as in the published code. seed: of the rotations' signs;
    every layer has its own. rotation, smoothing: leave one out to see what it is worth. order: "rotate-scale", or
    "scale-rotate" (the paper's ablation), where the factor comes from the unrotated distribution.
    """

    name: ClassVar[str] = "dsfq"

    alpha: float = 0.5
    momentum: float = 0.95
    rotation: bool = True
    smoothing: bool = True
    order: str = ORDERS[0]
    seed: int = 0

    def __post_init__(self) -> None:
        for field, value in (("alpha", self.alpha), ("momentum", self.momentum)):
            if not 0 <= value <= 1:
                raise InputError(f"{self.name} setting {field} must lie between 0 and 1, got {value}")
        if self.order not in ORDERS:
            raise InputError(f"{self.name} setting order must be one of {', '.join(ORDERS)}, got {self.order!r}")

    def start(self, site: str, linear: nn.Linear) -> Solver:
        signs = None
        if self.rotation:
            signs = random_signs(linear.in_features, zlib.crc32(f"{self.seed}:{site}".encode()))
            signs = signs.to(linear.weight.device)
        return Solver(linear, signs, self)


@dataclass(frozen=True)
class DSFQLearned(DSFQ):
    """The settings of dsfq, and:

    epochs: passes over the calibration set for each block. learning_rate: of the smoothing factors (5e-3 in the paper,
    1e-3 in its code); clipping learns `clip_rate` times as fast. inputs: "float" as published, or "quantized": each
    block learns on what the quantized blocks before it really give.
    """

    name: ClassVar[str] = "dsfq-learned"

    epochs: int = 15
    learning_rate: float = 5e-3
    clip_rate: float = 10.0
    inputs: str = "float"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.inputs not in ("float", "quantized"):
            raise InputError(f"{self.name} setting inputs must be float or quantized, got {self.inputs!r}")
        if self.epochs < 0 or self.learning_rate <= 0 or self.clip_rate <= 0:
            raise InputError(f"{self.name} needs epochs of 0 or more, learning_rate and clip_rate above 0")

    @property
    def input_stream(self) -> str:
        return self.inputs

    @property
    def ticks(self) -> int:
        return self.epochs

    def solve(self, task: BlockTask) -> dict[str, QuantLinear]:
        solvers = {layer: self.start(task.site(layer), task.linear(layer)) for layer in task.schemes}
        task.observe(task.block, {layer: solver.observe for layer, solver in solvers.items()})
        layers = {layer: self._fake(solver, task.schemes[layer]) for layer, solver in solvers.items()}
        parameters = [part for module in layers.values() for part in module.named_parameters()]
        groups = [
            {"params": [p for name, p in parameters if name.startswith("learned.")], "lr": self.learning_rate},
            {
                "params": [p for name, p in parameters if name.endswith("clip_logit")],
                "lr": self.learning_rate * self.clip_rate,
            },
        ]
        reconstruct(task, fake_block(task, layers), groups, self.epochs, self.seed)
        return freeze(layers)

    def _fake(self, solver: Solver, scheme: Scheme) -> FakeQuantLinear:
        linear, transform = solver.linear, solver.transform()
        device = linear.weight.device
        smooth = "smooth" if transform.smooth is not None else "presmooth"
        return FakeQuantLinear(
            linear,
            scheme,
            transform,
            learn=(smooth,) if self.smoothing else (),
            clip_logit=torch.full((2,), CLIP_LOGIT, device=device) if scheme.quantizes_activations else None,
            weight_rounding=NearestWeight(torch.full((linear.out_features, 2), CLIP_LOGIT, device=device)),
        )
