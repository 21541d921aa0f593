"""QDrop: block reconstruction with learned rounding while activations are rounded at random.

"QDrop: Randomly Dropping Quantization for Extremely Low-bit Post-training Quantization", arXiv 2203.05740, section 4.3,
with the published code's settings: rounding (AdaRound, as in `brecq`) and the activations' step are learned together;
at each step half of each layer's inputs stay unrounded, number by number, and so does half of the block's own input,
which comes from the quantized blocks before it or from the float model. Plain mean squared error.

Adapted: granularity, steps, rates and the scale of the penalty, as in `brecq`. There is no rounding between a block's
layers other than of their inputs, as everywhere here.
"""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from quantvggt.calibrate.fake_quant import FakeQuantLinear
from quantvggt.calibrate.learn import fake_block, freeze, reconstruct
from quantvggt.calibrate.methods.adaround import AdaRound, change, input_clips, penalty
from quantvggt.calibrate.methods.base import BlockTask, Method
from quantvggt.core.errors import InputError
from quantvggt.core.transform import Transform
from quantvggt.nn.quant_linear import QuantLinear


@dataclass(frozen=True)
class QDrop(Method):
    """epochs: passes over the calibration set for each block. learning_rate: of the rounding. clip_rate: of the
    activations' clip. penalty: of each undecided weight, in mean squares of what the block adds to its tokens. drop:
    share of the numbers that stay unrounded at each step. seed: of what is dropped and of the order of clips.
    """

    name: ClassVar[str] = "qdrop"

    epochs: int = 15
    learning_rate: float = 0.02
    clip_rate: float = 0.05
    penalty: float = 0.01
    drop: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.learning_rate <= 0 or self.clip_rate <= 0 or self.penalty < 0:
            raise InputError(f"{self.name} needs epochs of 0 or more, rates above 0 and penalty of 0 or more")
        if not 0 <= self.drop < 1:
            raise InputError(f"{self.name} setting drop must be 0 or more and below 1, got {self.drop}")

    @property
    def input_stream(self) -> str:
        return "quantized"

    @property
    def ticks(self) -> int:
        return self.epochs

    def solve(self, task: BlockTask) -> dict[str, QuantLinear]:
        clips = input_clips(task)
        roundings, layers = [], {}
        for layer, scheme in task.schemes.items():
            linear = task.linear(layer)
            roundings.append(AdaRound(linear.weight.detach().float(), scheme.weight_bits))
            layers[layer] = FakeQuantLinear(
                linear, scheme, Transform(), clip_logit=clips[layer], weight_rounding=roundings[-1], drop=self.drop
            )
        learned = [module.clip_logit for module in layers.values() if module.clip_logit is not None]
        groups = [
            {"params": [rounding.v for rounding in roundings], "lr": self.learning_rate},
            {"params": learned, "lr": self.clip_rate},
        ]
        undecided = partial(penalty, roundings, self.penalty * change(task))
        reconstruct(task, fake_block(task, layers), groups, self.epochs, self.seed, undecided, mix=self.drop)
        return freeze(layers)
