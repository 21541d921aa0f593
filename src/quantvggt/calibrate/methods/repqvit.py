"""RepQ-ViT: "Scale Reparameterization for Post-Training Quantization of Vision Transformers" (arXiv 2212.08254).

Section 3.3: behind a LayerNorm, channels get a scale s_j each; then r_j = s_j / mean(s) is divided out of the LayerNorm
and multiplied into the next weight, so that one scale for the whole layer rounds as the channels' own would:

    X'' = X / r,  W'' = W r

A scale is the range that percentile of {99.9, 99.99, 99.999} % gives whose rounding has the least squared error,
as in the published code, which does the same for each output channel of the weights.

Adapted: scales are symmetric, so there are no zero points and the shift b of the LayerNorm goes with them. r is divided
out while the input is quantized. After that a token's own scale, found at run time, takes the place of mean(s), which
therefore cancels. The log-sqrt2 quantizer of section 3.4 has no counterpart, since nothing here quantizes softmax.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from quantvggt.calibrate.methods.base import SiteMethod, SiteSolver
from quantvggt.core.affine import qmax
from quantvggt.core.rounding import least_error, nearest_round, rounding_error
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.nn.block import AFTER_NORM
from quantvggt.nn.quant_linear import QuantLinear

PERCENTILES = (0.999, 0.9999, 0.99999)
MOST_ROWS = 1 << 14  # tokens that the percentiles are taken of; the paper's 32 images have about 6300
FLOOR = 1e-5  # of an activation channel's scale, which is divided by
TINY = 1e-12


class Solver(SiteSolver):
    """reparameterizes: whether the layer's input comes from a LayerNorm."""

    def __init__(self, linear: nn.Linear, reparameterizes: bool) -> None:
        self.linear, self.reparameterizes = linear, reparameterizes
        self.rows, self.stride = linear.weight.new_empty(0, linear.in_features, dtype=torch.float32), 1

    def observe(self, x: Tensor) -> None:
        if self.reparameterizes:
            self.rows = torch.cat((self.rows, x.flatten(0, -2)[:: self.stride].float()))
        while len(self.rows) > MOST_ROWS:
            self.rows, self.stride = self.rows[::2], self.stride * 2

    def center(self, scales: Tensor) -> Tensor:
        """One scale for the layer from its channels' [K]."""
        return scales.mean()

    def solve(self, scheme: Scheme) -> QuantLinear:
        transform = Transform()
        if self.reparameterizes:
            bits = scheme.act_bits if scheme.quantizes_activations else 8
            scales = percentile_scale(self.rows.t(), bits)[:, 0].clamp(min=FLOOR)
            transform = Transform(smooth=scales / self.center(scales))
        weight = transform.apply_to_weight(self.linear.weight.detach())
        scale = percentile_scale(weight, scheme.weight_bits)
        rounded = nearest_round(weight, scheme.weight_bits, scale), scale
        return QuantLinear.from_float(self.linear, scheme, transform, rounded=rounded)


def percentile_scale(rows: Tensor, bits: int) -> Tensor:
    """For each of `rows` [N, K] the scale, of those that a percentile of its magnitudes makes the largest integer,
    whose rounding has the least squared error; float32 [N, 1]."""
    rows = rows.float()
    ordered = rows.abs().sort(1).values

    def scale(share: float) -> Tensor:
        place = share * (ordered.shape[1] - 1)
        low, high = ordered[:, int(place), None], ordered[:, min(int(place) + 1, ordered.shape[1] - 1), None]
        return (torch.lerp(low, high, place % 1) / qmax(bits)).clamp(min=TINY)

    return least_error(map(scale, PERCENTILES), lambda each: rounding_error(rows, bits, each).sum(1, keepdim=True))


@dataclass(frozen=True)
class RepQViT(SiteMethod):
    """No settings."""

    name: ClassVar[str] = "repqvit"

    def start(self, site: str, linear: nn.Linear) -> Solver:
        return Solver(linear, site.endswith(AFTER_NORM))
