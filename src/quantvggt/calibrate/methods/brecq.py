"""BRECQ: block reconstruction with learned rounding, its loss weighted by the Fisher diagonal.

"BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction", arXiv 2102.05426, sections 3.2 and
3.3, with the published code's settings: first the rounding of all weights of a block is learned (AdaRound, penalty
0.01 for each undecided weight after 20% warm-up, its exponent from 20 to 2), activations in float; then, with weights
fixed, the step of the activations (LSQ), in a quarter of the passes. Weight scales and activation ranges start where
their squared rounding error is least. Inputs come from the quantized blocks before it, targets from the float model.

Adapted: weights have one symmetric scale per output channel, activations one per token at run time; what is learned of
them is the factor on each token's range, one for maxima and one for minima, as in the other methods here. Outputs
without labels: see `calibrate.importance` for the Fisher diagonal. The paper takes 20 000 steps of 32 images at a rate
of 1e-3; here a step is a clip of all its frames, a few hundred in all, so the rate is 0.02 and falls by cosine. The
published loss is a sum over channels of networks with normalised activations; ours is a mean of numbers of any size, so
the penalty is 0.01 times the mean square of what the block adds to its tokens. (Dividing it by the number of channels
too, as the mean asks for, leaves more weights undecided after so few steps, and more error once they are cut.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from quantvggt.calibrate.fake_quant import FakeQuantLinear
from quantvggt.calibrate.importance import Importance, block_importance
from quantvggt.calibrate.learn import fake_block, freeze, reconstruct
from quantvggt.calibrate.methods.adaround import AdaRound, FixedWeight, change, input_clips, penalty
from quantvggt.calibrate.methods.base import BlockTask, Method
from quantvggt.core.errors import InputError
from quantvggt.core.transform import Transform
from quantvggt.models import Model
from quantvggt.nn.quant_linear import QuantLinear
from quantvggt.scenes.clip import Clip


@dataclass(frozen=True)
class BRECQ(Method):
    """epochs: passes over the calibration set for each block's rounding; a quarter as many for its activations.
    learning_rate: of the rounding. clip_rate: of the activations' clip. penalty: of each undecided weight, in mean
    squares of what the block adds to its tokens. probes: backward passes for each clip's Fisher diagonal. seed: of
    these and of the order of clips.
    """

    name: ClassVar[str] = "brecq"

    epochs: int = 15
    learning_rate: float = 0.02
    clip_rate: float = 0.05
    penalty: float = 0.01
    probes: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.epochs < 0 or min(self.learning_rate, self.clip_rate) <= 0 or self.penalty < 0 or self.probes < 1:
            raise InputError(f"{self.name} needs epochs of 0 or more, rates above 0, penalty of 0 or more and a probe")

    @property
    def input_stream(self) -> str:
        return "quantized"

    @property
    def clip_epochs(self) -> int:
        """Passes for the activations."""
        return math.ceil(self.epochs / 4)

    @property
    def ticks(self) -> int:
        return self.epochs + self.clip_epochs

    def prepare(self, model: Model, clips: Sequence[Clip], progress: bool) -> dict[str, Importance]:
        return block_importance(model, clips, progress, self.seed, self.probes)

    def solve(self, task: BlockTask) -> dict[str, QuantLinear]:
        weights = self._learn_rounding(task)
        clips = input_clips(task)
        layers = {
            layer: FakeQuantLinear(
                task.linear(layer), scheme, Transform(), clip_logit=clips[layer], weight_rounding=weights[layer]
            )
            for layer, scheme in task.schemes.items()
        }
        learned = [module.clip_logit for module in layers.values() if module.clip_logit is not None]
        groups = [{"params": learned, "lr": self.clip_rate}]
        reconstruct(task, fake_block(task, layers), groups, self.clip_epochs, self.seed)
        return freeze(layers)

    def _learn_rounding(self, task: BlockTask) -> dict[str, FixedWeight]:
        roundings, layers = {}, {}
        for layer, scheme in task.schemes.items():
            linear = task.linear(layer)
            roundings[layer] = AdaRound(linear.weight.detach().float(), scheme.weight_bits)
            layers[layer] = FakeQuantLinear(linear, scheme.weights_only, Transform(), weight_rounding=roundings[layer])
        groups = [{"params": [rounding.v for rounding in roundings.values()], "lr": self.learning_rate}]
        undecided = partial(penalty, list(roundings.values()), self.penalty * change(task))
        reconstruct(task, fake_block(task, layers), groups, self.epochs, self.seed, undecided)
        return {
            layer: FixedWeight(*roundings[layer].integers(layers[layer].weight, scheme.weight_bits))
            for layer, scheme in task.schemes.items()
        }
