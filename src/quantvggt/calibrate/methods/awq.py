"""AWQ: "Activation-aware Weight Quantization for LLM Compression and Acceleration" (arXiv 2306.00978), section 3.2.

Channels whose inputs are large get finer weights: X'' = X / s, W'' = W s with s = mean|X|^a, divided by
sqrt(max(s) min(s)); a is the one of 0, 1/20, ..., 19/20 that gives the least error of the layer's output. Then each
output channel's range shrinks to the one of 100%, 95%, ..., 55% with the least error of its output.

Adapted: weights have one scale per output channel, where the paper has one per 128 of its weights. The paper leaves
activations in floating point; here they are quantized per token, but as in the paper the searches don't see that. The
error is each layer's own, where the published code takes the whole attention's for qkv; as there, ranges of queries
and keys don't shrink. Errors are exact over all calibration tokens: tr(E H E^T) with H = X^T X. s is divided out while
the input is quantized, where the paper folds it into the layer before.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from quantvggt.calibrate.methods.base import SiteMethod, SiteSolver
from quantvggt.core.errors import InputError
from quantvggt.core.rounding import absmax_scale, least_error, nearest_round
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.nn.quant_linear import QuantLinear

SHRINKS = 10  # ranges that are tried, 5% apart
FLOOR = 1e-4  # of s before its division, as in the published code


class Solver(SiteSolver):
    """clips_from: the first output channel whose range may shrink; the number of channels if none may."""

    def __init__(self, linear: nn.Linear, grid: int, clips_from: int) -> None:
        self.linear, self.grid, self.clips_from = linear, grid, clips_from
        k, device = linear.in_features, linear.weight.device
        self.hessian = torch.zeros(k, k, dtype=torch.float64, device=device)
        self.magnitude = torch.zeros(k, dtype=torch.float64, device=device)  # sum over tokens |X_j|
        self.tokens = 0

    def observe(self, x: Tensor) -> None:
        x = x.flatten(0, -2).float()
        self.hessian += x.t() @ x
        self.magnitude += x.abs().sum(0)
        self.tokens += len(x)

    def solve(self, scheme: Scheme) -> QuantLinear:
        weight, bits, hessian = self.linear.weight.detach().float(), scheme.weight_bits, self.hessian.float()

        def errors(smooth: Tensor, scale: Tensor) -> Tensor:
            """Sum over tokens of each output channel's squared error, [N, 1]."""
            error = nearest_round(weight * smooth, bits, scale) * scale / smooth - weight
            return ((error @ hessian) * error).sum(1, keepdim=True)

        smooths = (self._smooth(step / self.grid) for step in range(self.grid))
        smooth = least_error(smooths, lambda each: errors(each, absmax_scale(weight * each, bits)).sum())
        full = absmax_scale(weight * smooth, bits)
        shrunk = least_error((full * (1 - 0.05 * step) for step in range(SHRINKS)), partial(errors, smooth))
        scale = torch.cat((full[: self.clips_from], shrunk[self.clips_from :]))
        rounded = nearest_round(weight * smooth, bits, scale), scale
        return QuantLinear.from_float(self.linear, scheme, Transform(smooth=smooth), rounded=rounded)

    def _smooth(self, exponent: float) -> Tensor:
        smooth = ((self.magnitude / self.tokens).float() ** exponent).clamp(min=FLOOR)
        return smooth / (smooth.max() * smooth.min()).sqrt()


@dataclass(frozen=True)
class AWQ(SiteMethod):
    """grid: how many exponents are tried. clip: whether ranges may shrink."""

    name: ClassVar[str] = "awq"

    grid: int = 20
    clip: bool = True

    def __post_init__(self) -> None:
        if self.grid < 1:
            raise InputError(f"{self.name} setting grid must be 1 or more, got {self.grid}")

    def start(self, site: str, linear: nn.Linear) -> Solver:
        clips_from = 0 if self.clip else linear.out_features
        if self.clip and site.endswith("attn.qkv"):
            clips_from = linear.out_features * 2 // 3  # only the values'
        return Solver(linear, self.grid, clips_from)
