"""The differentiable twin of a quantized layer: what methods learn with before the numbers are frozen.

Rounding passes gradients straight through (Bengio et al., arXiv 1308.3432), and a range's gradient reaches the clip
factors, the smoothing and the input's extremes, as the published QuantVGGT code has it. Also as there, weights are
clamped to their range before they are rounded and activations after.
"""

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.core.affine import qmax, quantize_weight
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import ASYMMETRIC_BITS, Scheme
from quantvggt.core.transform import Transform
from quantvggt.nn.quant_linear import QuantLinear

CLIP_LOGIT = 4.0  # sigmoid(4) = 0.982, where the published code starts
SMALLEST = 1e-5


class _RoundToGrid(torch.autograd.Function):
    """clamp(round(x / scale), low, high) * scale with straight-through gradients; scale [.., 1], bounds too or numbers.

    Masks are numbers, not booleans, which PyTorch handles several times as slowly on CPUs.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
        steps = x / scale
        q = torch.clamp(steps.round(), low, high)  # type: ignore[arg-type]  # both numbers or both tensors
        ctx.save_for_backward(steps, q)
        return q * scale

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None, None]:
        steps, q = ctx.saved_tensors
        # Where the value saturated, the error is more than half a step: there x has no say and the scale has q's.
        error = q - steps
        outside = error.abs().sub_(0.5).clamp_(min=0).mul_(1e30).clamp_(max=1)
        to_x = gradients[0].addcmul(gradients[0], outside, value=-1)
        to_scale = torch.linalg.vecdot(gradients[0], error.addcmul_(outside, steps)).unsqueeze(-1)
        return to_x, to_scale, None, None


class _ClampRows(torch.autograd.Function):
    """clamp(x, low, high) with bounds [.., 1], which get the gradients of what they cut off."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, low: Tensor, high: Tensor) -> Tensor:
        clamped = torch.clamp(x, low, high)
        ctx.save_for_backward(x, clamped)
        return clamped

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, clamped = ctx.saved_tensors
        side = (x - clamped).mul_(1e30).clamp_(-1, 1)  # 1 above, -1 below, 0 between
        above = torch.linalg.vecdot(gradients[0], side.clamp(min=0)).unsqueeze(-1)
        below = above - torch.linalg.vecdot(gradients[0], side).unsqueeze(-1)
        return gradients[0].addcmul(gradients[0], side.abs_(), value=-1), below, above


class _Extremes(torch.autograd.Function):
    """Each row's maximum and minimum, at least and at most 0; the gradient goes to the first number that reaches it."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        high, low = x.amax(-1, keepdim=True).clamp_(min=0), x.amin(-1, keepdim=True).clamp_(max=0)
        ctx.save_for_backward(x, high, low)
        return high, low

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        x, high, low = ctx.saved_tensors
        result = torch.zeros_like(x)
        result.scatter_(-1, x.argmax(-1, keepdim=True), gradients[0] * (high > 0))
        return result.scatter_add_(-1, x.argmin(-1, keepdim=True), gradients[1] * (low < 0))


def round_to_grid(x: Tensor, scale: Tensor, low: Tensor | float, high: Tensor | float) -> Tensor:
    """x [.., K] on the grid low .. high times scale [.., 1], differentiable in x and scale."""
    result: Tensor = _RoundToGrid.apply(x, scale, low, high)
    return result


def clamp_rows(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """x [.., K] within low .. high [.., 1], differentiable in all three."""
    result: Tensor = _ClampRows.apply(x, low, high)
    return result


def extremes(x: Tensor) -> tuple[Tensor, Tensor]:
    """The maximum and minimum of each row of x [.., K], extended to hold zero: [.., 1] each. Differentiable."""
    high, low = _Extremes.apply(x)
    return high, low


class WeightRounding(nn.Module):
    """How W'' gets onto its grid while a block learns, and in the end."""

    def forward(self, weight: Tensor, bits: int) -> Tensor:
        """W'' [N, K] on its grid, float32. Differentiable."""
        raise NotImplementedError

    def integers(self, weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        """The same as (int8 [N, K], scale float32 [N, 1])."""
        raise NotImplementedError


class NearestWeight(WeightRounding):
    """Rounds W'' to nearest, each row clamped to learned factors of its maximum and minimum.

    clip_logit: float32 [N, 2] before the sigmoid, or None for no clipping.
    """

    def __init__(self, clip_logit: Tensor | None = None) -> None:
        super().__init__()
        self.clip_logit = None if clip_logit is None else nn.Parameter(clip_logit)

    def forward(self, weight: Tensor, bits: int) -> Tensor:
        high, low = extremes(weight)
        if self.clip_logit is not None:
            clip = self.clip_logit.sigmoid()
            high, low = high * clip[:, :1], low * clip[:, 1:]
            weight = clamp_rows(weight, low, high)
        top = qmax(bits)
        scale = (torch.maximum(high, -low) / top).clamp(min=1e-12)
        return round_to_grid(weight, scale, -top - 1, top)

    def integers(self, weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
        return quantize_weight(weight, bits, None if self.clip_logit is None else self.clip_logit.sigmoid())


class FakeQuantLinear(nn.Module):
    """A float layer that computes as `QuantLinear` will, with whatever of it is a parameter free to learn.

    smooth, left, right: parameters that start at the transform's own values where `learn` names them.
    clip_logit: float32 [2], the input clip before its sigmoid, a parameter if given.
    weight_rounding: turns W'' into numbers on a grid.
    drop: share of the input's numbers that stay unrounded in training mode, drawn anew every time (QDrop).
    Raises InputError for a static scheme: ranges that don't come from the input are not learned here.
    """

    frame_tokens: int | None = None
    special_tokens: int = 0

    def __init__(
        self,
        linear: nn.Linear,
        scheme: Scheme,
        transform: Transform,
        *,
        learn: tuple[str, ...] = (),
        clip_logit: Tensor | None = None,
        weight_rounding: WeightRounding | None = None,
        drop: float = 0.0,
    ) -> None:
        super().__init__()
        if scheme.static:
            raise InputError(f"scheme {scheme.name}: static ranges can't be learned; use a dynamic scheme")
        self.linear, self.scheme, self.fixed, self.drop = linear, scheme, transform.detached(), drop
        self.learned = nn.ParameterDict({name: nn.Parameter(getattr(self.fixed, name).clone()) for name in learn})
        self.clip_logit = None if clip_logit is None else nn.Parameter(clip_logit)
        self.weight_rounding = weight_rounding or NearestWeight()
        # The smoothing comes last, so where nothing before it learns the rest of W'' is found once.
        self._smooths_only = set(learn) <= {"smooth"}
        still = replace(self.fixed, smooth=None) if self._smooths_only else Transform()
        self.weight = still.apply_to_weight(linear.weight.detach())

    @property
    def transform(self) -> Transform:
        """The present transform; smoothing factors are kept above zero."""
        values = {**vars(self.fixed), **dict(self.learned.items())}
        for name in ("smooth", "presmooth"):
            if name in self.learned:
                values[name] = values[name].clamp(min=SMALLEST)
        return Transform(**values)

    def forward(self, x: Tensor) -> Tensor:
        transform, dtype = self.transform, x.dtype
        x = transform.apply(x)
        if self.scheme.quantizes_activations:
            rounded = self._round_input(x)
            if self.drop and self.training:
                rounded = torch.lerp(rounded, x, (torch.rand_like(x) < self.drop).to(x))
            x = rounded
        weight = self.weight_rounding(self.transformed_weight(), self.scheme.weight_bits)
        bias = transform.apply_to_bias(self.linear.weight.detach(), self.linear.bias)
        return F.linear(x, weight, None if bias is None else bias.float()).to(dtype)

    def transformed_weight(self) -> Tensor:
        """W'' float32 [N, K], differentiable in what learns."""
        transform = self.transform
        if not self._smooths_only:
            return transform.apply_to_weight(self.weight)
        return self.weight if transform.smooth is None else self.weight * transform.smooth

    def _round_input(self, x: Tensor) -> Tensor:
        high, low = extremes(x)
        if self.scheme.per_tensor:
            high, low = high.max(), low.min()
        if self.clip_logit is not None:
            clip = self.clip_logit.sigmoid()
            high, low = high * clip[0], low * clip[1]
        top = self._tops(x)
        scale = (torch.maximum(high, -low) / top).clamp(min=1e-12)
        bottom: Any = -top - 1
        if self.scheme.asymmetric:
            levels = 2 * top + 1
            narrow = torch.as_tensor(top <= qmax(ASYMMETRIC_BITS), device=x.device)
            scale = torch.where(narrow, ((high - low) / levels).clamp(min=1e-12), scale)
            zero = (-low / scale).detach().round()
            bottom, top = torch.where(narrow, -zero, bottom), torch.where(narrow, levels - zero, top)
        return round_to_grid(x, scale.expand(*x.shape[:-1], 1), bottom, top)

    def _tops(self, x: Tensor) -> Any:
        """The largest integer of each token: a number, or [.., 1] where special tokens have their own width."""
        if self.scheme.special_bits is None:
            return qmax(self.scheme.act_bits)
        assert self.frame_tokens is not None, "mark_frames first"
        top = x.new_full((self.frame_tokens, 1), qmax(self.scheme.act_bits))
        top[: self.special_tokens] = qmax(self.scheme.special_bits)
        return top.expand(x.shape[:-1].numel() // self.frame_tokens, -1, -1).reshape(*x.shape[:-1], 1)

    @torch.no_grad()
    def freeze(self) -> QuantLinear:
        """The layer in integers."""
        transform = self.transform
        rounded = self.weight_rounding.integers(self.transformed_weight(), self.scheme.weight_bits)
        clip = self.clip_logit if self.scheme.quantizes_activations else None
        return QuantLinear.from_float(
            self.linear,
            self.scheme,
            transform,
            input_clip=None if clip is None else clip.sigmoid(),
            rounded=rounded,
        )
