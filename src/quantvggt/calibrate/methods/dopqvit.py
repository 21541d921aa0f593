"""DopQ-ViT: "Towards Distribution-Friendly and Outlier-Aware Post-Training Quantization for Vision Transformers"
(arXiv 2408.03291).

RepQ-ViT with another scale for the whole layer behind a LayerNorm: the MAD-guided optimal scaling factor, which is the
channel scale with the least mean absolute deviation from all of them, that is their median, instead of the mean that
outlier channels pull away. Its tan quantizer is for the outputs of softmax, which nothing here quantizes.

Adapted: as RepQ-ViT. The layer's scale turns all r_j by one common factor, and scales that come from the data, one per
weight row and one per token at run time, take that factor out again. So here this method gives RepQ-ViT's integers; it
is in the tables because the paper's tables have it.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from quantvggt.calibrate.methods.base import SiteMethod
from quantvggt.calibrate.methods.repqvit import Solver as RepQViTSolver
from quantvggt.nn.block import AFTER_NORM


class Solver(RepQViTSolver):
    def center(self, scales: Tensor) -> Tensor:
        return scales.median()


@dataclass(frozen=True)
class DopQViT(SiteMethod):
    """No settings."""

    name: ClassVar[str] = "dopqvit"

    def start(self, site: str, linear: nn.Linear) -> Solver:
        return Solver(linear, site.endswith(AFTER_NORM))
