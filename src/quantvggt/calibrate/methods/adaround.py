"""Learned rounding: whether each weight goes up or down is decided by what it does to the block's output.

"Up or Down? Adaptive Rounding for Post-Training Quantization" (AdaRound, arXiv 2004.10568, section 4), as BRECQ
(arXiv 2102.05426) and QDrop (arXiv 2203.05740) use it. Beside it what those two begin with: ranges of weights and
activations with the least squared rounding error.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from quantvggt.calibrate.fake_quant import CLIP_LOGIT, WeightRounding
from quantvggt.calibrate.methods.base import BlockTask
from quantvggt.core.affine import qmax
from quantvggt.core.rounding import mse_scale, rounding_error

ZETA, GAMMA = 1.1, -0.1  # the sigmoid is stretched to (GAMMA, ZETA), then cut to [0, 1], so that both are reached
WARM_UP, BETA_START, BETA_END = 0.2, 20.0, 2.0
WEIGHT_SHARES = torch.arange(1.0, 0.3, -0.02).tolist()
INPUT_SHARES = torch.arange(1.0, 0.4, -0.05).tolist()


class AdaRound(WeightRounding):
    """W'' on its grid with one number v per weight: floor(W'' / scale) + h(v), h from 0 to 1, times scale.

    weight: float32 [N, K], the W'' that it is made for. It begins where h is the fraction, so with W'' itself.
    """

    def __init__(self, weight: Tensor, bits: int) -> None:
        super().__init__()
        self.scale = mse_scale(weight, bits, shares=WEIGHT_SHARES, norm=2.0)
        steps = weight / self.scale
        self.floor = steps.floor()
        share = (steps - self.floor - GAMMA) / (ZETA - GAMMA)
        self.v = nn.Parameter(torch.logit(share))

    def soft(self) -> Tensor:
        """h(v) = clamp(sigmoid(v) (zeta - gamma) + gamma, 0, 1), [N, K]."""
        return (self.v.sigmoid() * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def forward(self, weight: Tensor, bits: int) -> Tensor:
        top = qmax(bits)
        return (self.floor + self.soft()).clamp(-top - 1, top) * self.scale

    def integers(self, weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        top = qmax(bits)
        return (self.floor + (self.v >= 0)).clamp(-top - 1, top).to(torch.int8), self.scale

    def undecided(self, beta: float) -> Tensor:
        """Sum over weights of 1 - |2 h - 1|^beta, which is 0 where h is 0 or 1."""
        return (1 - (2 * self.soft() - 1).abs().pow(beta)).sum()


class FixedWeight(WeightRounding):
    """A weight that is rounded already: q int8 [N, K] times scale [N, 1]."""

    def __init__(self, q: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.q, self.scale, self.value = q, scale, q * scale

    def forward(self, weight: Tensor, bits: int) -> Tensor:
        return self.value

    def integers(self, weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        return self.q, self.scale


def penalty(roundings: Iterable[AdaRound], weight: float, progress: float) -> Tensor:
    """weight times what is undecided: nothing in the first fifth of training, then beta falls from 20 to 2."""
    if progress < WARM_UP:
        return torch.zeros(())
    beta = BETA_START + (BETA_END - BETA_START) * (progress - WARM_UP) / (1 - WARM_UP)
    return weight * torch.stack([rounding.undecided(beta) for rounding in roundings]).sum()


def change(task: BlockTask) -> float:
    """The mean square of what the float block adds to its tokens: the unit of the penalty."""
    pairs = zip(task.inputs.tokens, task.targets.tokens, strict=True)
    return torch.stack([(after - before).float().square().mean() for before, after in pairs]).mean().item()


class InputRange:
    """Sees a layer's inputs and finds the clip of its tokens' ranges with the least squared rounding error."""

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self.errors = torch.zeros(len(INPUT_SHARES))

    def observe(self, x: Tensor) -> None:
        x = x.float()
        whole = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / qmax(self.bits)
        self.errors += torch.stack([rounding_error(x, self.bits, whole * share).sum().cpu() for share in INPUT_SHARES])

    def clip_logit(self) -> Tensor:
        """float32 [2] before the sigmoid, for the maximum and the minimum; CLIP_LOGIT at most."""
        share = torch.tensor(INPUT_SHARES)[self.errors.argmin()]
        return torch.logit(share).clamp(max=CLIP_LOGIT).repeat(2)


def input_clips(task: BlockTask) -> dict[str, Tensor | None]:
    """Layer -> where its clip begins, from all clips of the task; None where activations stay in float."""
    ranges = {
        layer: InputRange(scheme.act_bits) for layer, scheme in task.schemes.items() if scheme.quantizes_activations
    }
    task.observe(task.block, {layer: each.observe for layer, each in ranges.items()})
    device = next(task.block.parameters()).device
    return {layer: ranges[layer].clip_logit().to(device) if layer in ranges else None for layer in task.schemes}
