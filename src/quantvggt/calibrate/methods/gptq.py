"""GPTQ: "Accurate Post-Training Quantization for Generative Pre-trained Transformers" (arXiv 2210.17323).

Weights are rounded channel by channel, and what a rounded channel gets wrong the remaining ones make up for, as far as
the inputs' second moments X^T X let them (section 3.3 and algorithm 1, in `calibrate.gptq_rounding`).

Adapted: the paper leaves activations in floating point; here they are quantized per token at run time, without
clipping. X^T X comes from the layer's input before it is rounded, but what earlier layers' rounded inputs do to it is
in it. Weights are symmetric with one scale per output channel from its largest weight (the published code's default is
an asymmetric range). Channel order by decreasing diagonal and layer after layer within a block are the published code's
recommended switches (--act-order, --true-sequential); damping is its 1%.
"""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from quantvggt.calibrate.gptq_rounding import gptq_round
from quantvggt.calibrate.methods.base import SiteSolver
from quantvggt.calibrate.methods.sequential import SequentialMethod
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.nn.quant_linear import QuantLinear


class GPTQSolver(SiteSolver):
    """Rounds W'' of one layer with the second moments of X''; transform: from X and W to X'' and W''."""

    def __init__(self, linear: nn.Linear, damping: float, act_order: bool, transform: Transform | None = None) -> None:
        self.linear, self.damping, self.act_order = linear, damping, act_order
        self.transform = transform or Transform()
        self.hessian: Tensor | None = None  # X''^T X'', float64 [K, K]

    def observe(self, x: Tensor) -> None:
        x = self.transform.apply(x.flatten(0, -2))
        moments = (x.t() @ x).double()
        self.hessian = moments if self.hessian is None else self.hessian.add_(moments)

    def solve(self, scheme: Scheme) -> QuantLinear:
        weight = self.transform.apply_to_weight(self.linear.weight.detach())
        rounded = self.round(weight, scheme.weight_bits)
        return QuantLinear.from_float(
            self.linear, scheme, self.transform, input_clip=self.input_clip(scheme), rounded=rounded
        )

    def round(self, weight: Tensor, bits: int, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """W'' [N, K] as (int8 [N, K], scale [N, 1])."""
        assert self.hessian is not None, "solve() before observe()"
        return gptq_round(weight, self.hessian, bits, scale, damping=self.damping, act_order=self.act_order)

    def input_clip(self, scheme: Scheme) -> Tensor | None:
        """Factors [2] on the activations' ranges, if any."""
        return None


@dataclass(frozen=True)
class GPTQ(SequentialMethod):
    """damping: what is added to the diagonal of X^T X, as a share of its mean. act_order: round the channels with the
    largest diagonal first."""

    name: ClassVar[str] = "gptq"

    damping: float = 0.01
    act_order: bool = True

    def __post_init__(self) -> None:
        if not 0 < self.damping <= 1:
            raise InputError(f"{self.name} setting damping must lie above 0 and at most at 1, got {self.damping}")

    def start(self, site: str, linear: nn.Linear) -> GPTQSolver:
        return GPTQSolver(linear, self.damping, self.act_order)
