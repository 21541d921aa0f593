"""SmoothQuant (arXiv 2211.10438), section 4: outliers of activation channels move into the weights.

    X'' = X / c,  W'' = W c,  c_j = max|X_j|^alpha / max|W_j|^(1 - alpha)

with the maximum of X over all tokens of all clips.

Adapted: c is divided out while the input is quantized, where the paper folds it into the LayerNorm in front. That is
why the paper has it only for inputs that a LayerNorm gives, qkv and fc1; here nothing stands in the way of proj and
fc2, and `sites` says which. Weights have one scale per output channel and activations one per token, found at run
time (the paper's O1 has the latter too, with per-tensor weights).
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from quantvggt.calibrate.methods.base import SiteMethod, SiteSolver
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.nn.block import AFTER_NORM
from quantvggt.nn.quant_linear import QuantLinear

FLOOR = 1e-5
SITES = ("norm", "all")


class Solver(SiteSolver):
    """alpha None leaves the layer's channels as they are."""

    def __init__(self, linear: nn.Linear, alpha: float | None) -> None:
        self.linear, self.alpha = linear, alpha
        self.peak: Tensor | None = None  # max over tokens |X_j|, float32 [K]

    def observe(self, x: Tensor) -> None:
        peak = x.flatten(0, -2).float().abs().amax(0)
        self.peak = peak if self.peak is None else torch.maximum(peak, self.peak)

    def solve(self, scheme: Scheme) -> QuantLinear:
        if self.alpha is None:
            return QuantLinear.from_float(self.linear, scheme)
        assert self.peak is not None, "solve() before observe()"
        peak = self.peak.clamp(min=FLOOR)
        weight_peak = self.linear.weight.detach().float().abs().amax(0).clamp(min=FLOOR)
        smooth = (peak**self.alpha / weight_peak ** (1 - self.alpha)).clamp(min=FLOOR)
        return QuantLinear.from_float(self.linear, scheme, Transform(smooth=smooth))


@dataclass(frozen=True)
class SmoothQuant(SiteMethod):
    """alpha: share of the outliers that moves into the weights. sites: "norm", layers behind a LayerNorm as in the
    paper, or "all"."""

    name: ClassVar[str] = "smoothquant"
    takes_float8: ClassVar[bool] = True

    alpha: float = 0.5
    sites: str = SITES[0]

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise InputError(f"{self.name} setting alpha must lie between 0 and 1, got {self.alpha}")
        if self.sites not in SITES:
            raise InputError(f"{self.name} setting sites must be one of {', '.join(SITES)}, got {self.sites!r}")

    def start(self, site: str, linear: nn.Linear) -> Solver:
        smooths = self.sites == "all" or site.endswith(AFTER_NORM)
        return Solver(linear, self.alpha if smooths else None)
