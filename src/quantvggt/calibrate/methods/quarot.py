"""QuaRot: "Outlier-Free 4-Bit Inference in Rotated LLMs" (arXiv 2404.00456), section 4 and its published code.

Every input is rotated by a random Hadamard matrix, which spreads outlier channels over all others; activation ranges
are clipped to 0.9 of a token's largest value; weights are rounded by GPTQ on scales that a search finds.

Adapted: QuaRot rotates the residual stream once, by folding one matrix into the weights around it, and rotates at run
time only where folding can't reach. VGGT's LayerNorms subtract means and its blocks have LayerScale, so here every
layer rotates its own input at run time, with its own signs. GPTQ without activation order and the weight quantizer's
search (shrinking ranges, sum |error|^2.4) are the code's defaults with --w_clip, as its readme runs it. Clipping is
meant for 4 bits and stays off above. Keys, values and queries stay in floating point, as with every method here.
"""

import zlib
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from quantvggt.calibrate.methods.gptq import GPTQSolver
from quantvggt.calibrate.methods.sequential import SequentialMethod
from quantvggt.core.errors import InputError
from quantvggt.core.rotation import random_signs
from quantvggt.core.rounding import absmax_scale, mse_scale, nearest_round
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform

ROUNDINGS = ("gptq", "nearest")
CLIP = 0.9
CLIPPED_BITS = 4  # with more, the finer step that clipping buys is worth less than what it cuts off


class Solver(GPTQSolver):
    def __init__(self, linear: nn.Linear, signs: Tensor, settings: "QuaRot") -> None:
        super().__init__(linear, settings.damping, settings.act_order, Transform(signs=signs))
        self.settings = settings

    def observe(self, x: Tensor) -> None:
        if self.settings.rounding == "gptq":
            super().observe(x)

    def round(self, weight: Tensor, bits: int, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
        scale = mse_scale(weight, bits) if self.settings.search_scale else absmax_scale(weight, bits)
        if self.settings.rounding == "gptq":
            return super().round(weight, bits, scale)
        return nearest_round(weight, bits, scale), scale

    def input_clip(self, scheme: Scheme) -> Tensor | None:
        clip = self.settings.clip
        if clip is None:
            clip = CLIP if scheme.act_bits <= CLIPPED_BITS else 1.0
        return torch.full((2,), clip) if scheme.quantizes_activations and clip < 1 else None


@dataclass(frozen=True)
class QuaRot(SequentialMethod):
    """clip: factor on each token's activation range; None is 0.9 for up to 4 bits and none for more. rounding: of the
    weights, "gptq" or "nearest". search_scale: weight scales by search rather than from each row's largest weight.
    damping, act_order: as in gptq. seed: of the rotations' signs; every layer has its own."""

    name: ClassVar[str] = "quarot"

    clip: float | None = None
    rounding: str = ROUNDINGS[0]
    search_scale: bool = True
    damping: float = 0.01
    act_order: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for field, value in (("clip", self.clip), ("damping", self.damping)):
            if value is not None and not 0 < value <= 1:
                raise InputError(f"{self.name} setting {field} must lie above 0 and at most at 1, got {value}")
        if self.rounding not in ROUNDINGS:
            raise InputError(
                f"{self.name} setting rounding must be one of {', '.join(ROUNDINGS)}, got {self.rounding!r}"
            )

    def start(self, site: str, linear: nn.Linear) -> Solver:
        signs = random_signs(linear.in_features, zlib.crc32(f"{self.seed}:{site}".encode()))
        return Solver(linear, signs.to(linear.weight.device), self)
