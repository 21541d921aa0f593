"""BARQ, version 2: version 1 with a low-rank branch beside every layer.

What few bits lose is set by the range of what they have to hold, and after version 1's centring and balancing most of
that lies in a few directions: 16 of vggt-nano's 256 channels hold four fifths of a block's input. So the strongest
directions of the balanced input, the first eigenvectors of its second moments, go past the few bits in 8 of their own
(`core.branch`), and the rest is rotated and rounded as in version 1, with a step half as wide.

Weights gain, too: where rounding the branch's coordinates loses next to nothing of a direction, the other weights do
without it. That is so for patch tokens; a special token with one massive value rounds all its other coordinates away,
and what is lost so must stay in reach of the other weights. `MISSED` says how much may be lost: 5 tokens that keep 8
bits and carry the cameras may lose less.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from quantvggt.calibrate.methods.barq import Barq1, Hessian, Moments, in_frames
from quantvggt.calibrate.methods.base import BlockTask
from quantvggt.core.affine import quantize_weight
from quantvggt.core.branch import Branch
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.kernels.contract import RANKS
from quantvggt.nn.quant_linear import QuantLinear, mark_frames

ITERATIONS = 20
MISSED = (5e-5, 1e-2)  # of special tokens and of all others
MOST_BITS = 6  # wider than this loses next to nothing


class SecondMoments(Moments):
    """`Moments` with those of all pairs of channels."""

    def __init__(self, special_weight: float, special: int) -> None:
        super().__init__(special_weight, special)
        self.products = torch.zeros(())

    def observe(self, x: Tensor, frame_tokens: int) -> None:
        """x: [.., K], whole frames of so many tokens."""
        super().observe(x, frame_tokens)
        rows = x.reshape(-1, frame_tokens, x.shape[-1]).float()
        weight = rows.new_ones(frame_tokens, 1)
        weight[: self.special] = self.special_weight
        self.products = self.products.to(x.device) + ((rows * weight).flatten(0, 1).t() @ rows.flatten(0, 1)).double()

    def of(self, transform: Transform) -> Tensor:
        """float64 [K, K]: second moments of the input after the transform's shift and presmoothing."""
        mean, shift = self.total / self.count, transform.shift
        moments = self.products / self.count
        if shift is not None:
            moments = moments - torch.outer(mean, shift.double()) - torch.outer(shift.double(), mean - shift.double())
        assert transform.presmooth is not None
        return moments / torch.outer(transform.presmooth, transform.presmooth).double()


class Rounded(Hessian):
    """`Hessian` of the K inputs that few bits hold, and what rounding misses of the branch's directions."""

    def __init__(self, layer: QuantLinear, special: int) -> None:
        super().__init__(layer, special)
        branch = layer.branch
        assert branch is not None
        self.turned = Transform(signs=layer.rotation_signs).apply(branch.directions.t())  # [R, K]
        self.energy = self.turned.new_zeros(2, 2, len(self.turned), dtype=torch.float64)

    def observe(self, x: Tensor, frame_tokens: int) -> None:
        """x: [.., K], whole frames of so many tokens."""
        mark_frames(self.layer, frame_tokens, self.special)
        rounded, beside = self.layer.rounded_input(x).flatten(0, -2).split([x.shape[-1], len(self.turned)], -1)
        self.value = self.value.to(x.device) + (rounded.t() @ rounded).double()
        whole = self.layer.transform.apply(x).flatten(0, -2)
        for part, rows in enumerate((whole, whole - beside @ self.turned)):
            squares = (rows @ self.turned.t()).square().unflatten(0, (-1, frame_tokens)).double().sum(0)
            self.energy[part] += torch.stack((squares[: self.special].sum(0), squares[self.special :].sum(0)))

    def missed(self) -> Tensor:
        """float64 [R]: the share of each direction's energy that is missed, of what `MISSED` allows; the larger of
        special and other tokens'."""
        had, left = self.energy
        share = torch.where(had > 0, left / had, 0.0)
        return (share / share.new_tensor(MISSED)[:, None]).amax(0)


@dataclass(frozen=True)
class Barq2(Barq1):
    """rank: directions of the low-rank branch, 0 for none. The other settings are those of `Barq1`."""

    name: ClassVar[str] = "barq-2"

    rank: int = 16

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rank not in (0, *RANKS):
            raise InputError(f"{self.name} setting rank must be 0 or one of {RANKS}, got {self.rank!r}")

    def moments(self, special: int) -> Moments:
        return SecondMoments(self.special_weight, special)

    def round(
        self, task: BlockTask, block: nn.Module, layer: str, transform: Transform, moments: Moments
    ) -> QuantLinear:
        linear, scheme = task.linear(layer), task.schemes[layer]
        if layer in task.static or not self.has_branch(linear, scheme):
            return super().round(task, block, layer, transform, moments)
        assert isinstance(moments, SecondMoments)
        assert transform.presmooth is not None
        balanced = linear.weight.detach().float() * transform.presmooth
        directions = leading(moments.of(transform), self.rank).float()
        branch, left = Branch.split(directions, balanced)
        nearest = quantize_weight(left, scheme.weight_bits)  # what it is doesn't matter yet
        seen = Rounded(
            QuantLinear.from_float(linear, scheme, transform, rounded=nearest, branch=branch), task.inputs.special
        )
        task.observe(block, {layer: in_frames(task, seen.observe)})
        branch, left = Branch.split(directions, balanced, seen.missed() < 1)
        weight = Transform(signs=transform.signs).apply_to_weight(left)
        return QuantLinear.from_float(
            linear, scheme, transform, rounded=self.gptq(weight, seen.value, scheme), branch=branch
        )

    def has_branch(self, linear: nn.Linear, scheme: Scheme) -> bool:
        """Where a side is narrow and the layer wide enough to gain; not with one range for all tokens."""
        if (
            scheme.per_tensor
            or not scheme.quantizes_activations
            or min(scheme.weight_bits, scheme.act_bits) > MOST_BITS
        ):
            return False
        return 0 < 4 * self.rank <= linear.in_features


def leading(moments: Tensor, rank: int) -> Tensor:
    """The eigenvectors of the `rank` largest eigenvalues of symmetric `moments` float64 [K, K], as [K, rank].

    By orthogonal iteration on twice as many vectors, since all eigenvectors of 4096 channels take a minute. It need not
    converge for a small eigenvalue that others are close to: there any of them is as good.
    """
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(len(moments), min(2 * rank, len(moments)), generator=generator, dtype=torch.float64)
    vectors = vectors.to(moments.device)
    for _ in range(ITERATIONS):
        vectors, _ = torch.linalg.qr(moments @ vectors)
    _, turn = torch.linalg.eigh(vectors.t() @ moments @ vectors)
    return vectors @ turn[:, -rank:]
