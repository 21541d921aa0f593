"""Dual-smoothed fine-grained quantization, closed form (QuantVGGT, arXiv 2509.21302, section 3.2).

A random Hadamard rotation spreads outliers over all channels; what is left of them after the rotation is
balanced between activations and weights by one factor per channel.
"""

import zlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from quantvggt.calibrate.methods.base import Method, SiteSolver
from quantvggt.core.errors import InputError
from quantvggt.core.rotation import random_signs, rotate
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.models.linear import QuantLinear

FLOOR = 1e-5


class _Solver(SiteSolver):
    def __init__(self, linear: nn.Linear, signs: Tensor, alpha: float, momentum: float) -> None:
        self.linear, self.signs, self.alpha, self.momentum = linear, signs, alpha, momentum
        self.peak: Tensor | None = None  # running mean over samples of max over tokens |(XH)_i|, float32 [K]

    def observe(self, x: Tensor) -> None:
        peak = rotate(x.flatten(0, -2), self.signs).abs().amax(dim=0)
        self.peak = peak if self.peak is None else torch.lerp(peak, self.peak, self.momentum)

    def solve(self, scheme: Scheme) -> QuantLinear:
        assert self.peak is not None, "solve() before observe()"
        weight_peak = rotate(self.linear.weight.detach(), self.signs).abs().amax(dim=0)
        smooth = self.peak.clamp(min=FLOOR) ** self.alpha / weight_peak.clamp(min=FLOOR) ** (1 - self.alpha)
        return QuantLinear.from_float(self.linear, scheme, Transform(signs=self.signs, smooth=smooth.clamp(min=FLOOR)))


@dataclass(frozen=True)
class DSFQ(Method):
    """alpha: share of the outliers moved into the weights, c_i = max|(XH)_i|^alpha / max|(WH)_i|^(1 - alpha).

    momentum: of the running mean of per-sample maxima, as in the published code. seed: of the rotations' signs;
    every layer has its own.
    """

    name: ClassVar[str] = "dsfq"
    needs_calibration: ClassVar[bool] = True

    alpha: float = 0.5
    momentum: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        for field, value in (("alpha", self.alpha), ("momentum", self.momentum)):
            if not 0 <= value <= 1:
                raise InputError(f"dsfq setting {field} must lie between 0 and 1, got {value}")

    def start(self, site: str, linear: nn.Linear) -> SiteSolver:
        signs = random_signs(linear.in_features, zlib.crc32(f"{self.seed}:{site}".encode()))
        return _Solver(linear, signs.to(linear.weight.device), self.alpha, self.momentum)
