"""The quantized linear layer: few bits and scales instead of a float weight."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.core.affine import dequantize, quantize_ranges, row_ranges
from quantvggt.core.branch import Branch
from quantvggt.core.errors import InputError
from quantvggt.core.float8 import quantize_float8
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.kernels.bound import BoundLinear, Numbers, Tensors, rotate_arguments
from quantvggt.kernels.ops import float8_linear, int_linear, rotate_quantize
from quantvggt.nn.quant_weight import QuantWeight, round_weight
from quantvggt.nn.tensors import BRANCH, CLIP, OPTIONAL, PARTS, Shapes, check_numbers, check_shapes, optional_shapes


class QuantLinear(QuantWeight):
    """y = X'' W''^T + b with X'' and W'' of `core.transform.Transform`, both in few bits.

    Buffers beside those of `QuantWeight`, where they exist: the transform's `input_shift`, `input_presmooth`,
    `input_smooth` float32 [K], `rotation_signs` int8 [K], `input_left` [a, a] and `input_right` [b, b] float32 with
    a b = K; `input_clip` float32 [2], factors on each range's maximum and minimum; `input_range` float32 [P, 2], the
    maxima and minima of static activations, P = 1 per tensor or a frame's tokens; those of a `core.branch.Branch`.
    The output has the input's dtype, or autocast's where that is on.
    """

    input_clip: Tensor | None
    input_range: Tensor | None
    input_shift: Tensor | None
    input_presmooth: Tensor | None
    input_left: Tensor | None
    rotation_signs: Tensor | None
    input_smooth: Tensor | None
    input_basis: Tensor | None
    input_basis_scale: Tensor | None
    branch_weight: Tensor | None
    branch_scale: Tensor | None

    frame_tokens: int | None = None
    """How many tokens a frame has; whoever runs the model says so (see `mark_frames`)."""
    special_tokens: int = 0
    """How many of them, the first ones, are special: no patches."""

    def __init__(self, in_features: int, out_features: int, scheme: Scheme) -> None:
        super().__init__(in_features, out_features, scheme)
        general = scheme.per_tensor or scheme.static or scheme.float8
        self._linear = BoundLinear()
        self._by_steps = scheme.quantizes_activations and not general

    @classmethod
    def empty(
        cls, linear: nn.Linear, scheme: Scheme, optional: Shapes, device: torch.device | str = "cpu"
    ) -> "QuantLinear":
        """A layer in the shape of `linear`, with buffers and no values yet.

        optional: name in `nn.tensors.OPTIONAL` -> shape. A shift makes a bias even where `linear` has none.
        Raises InputError if a shape doesn't fit, or the scheme has no use for a clip or needs a range.
        """
        check_shapes(optional, linear.out_features, linear.in_features, scheme)
        module = cls(linear.in_features, linear.out_features, scheme)
        module._add_weight(device)
        for name, tensor in OPTIONAL.items():
            module._add(name, optional.get(name), tensor.dtype, device)
        has_bias = linear.bias is not None or "input_shift" in optional
        module._add("bias", (linear.out_features,) if has_bias else None, linear.weight.dtype, device)
        return module

    @classmethod
    def from_float(
        cls,
        linear: nn.Linear,
        scheme: Scheme,
        transform: Transform | None = None,
        weight_clip: Tensor | None = None,
        input_clip: Tensor | None = None,
        input_range: Tensor | None = None,
        rounded: tuple[Tensor, Tensor] | None = None,
        branch: Branch | None = None,
    ) -> "QuantLinear":
        """Quantize `linear` after `transform`.

        `weight_clip` [N, 2] and `input_clip` [2] hold factors in (0, 1] on the maximum and the minimum of
        each weight row or activation range; `input_range` [P, 2] is for static schemes. `rounded` = (int8 or
        float8 [N, K], scale [N, 1]) is W'' already rounded by somebody who knows better than nearest. `branch`: what
        goes beside it.
        The arithmetic is float32 whatever the weight's dtype.
        Raises InputError if an argument has the wrong shape or values that can't be meant.
        """
        transform = transform or Transform()
        values = {name: getattr(transform, part) for part, name in PARTS.items()}
        values |= {"input_clip": input_clip, "input_range": input_range}
        if branch is not None:
            values |= dict(zip(BRANCH, (branch.basis, branch.basis_scale, branch.weight, branch.scale), strict=True))
        optional = {name: value.detach() for name, value in values.items() if value is not None}
        module = cls.empty(linear, scheme, optional_shapes(optional), linear.weight.device)
        for name, value in optional.items():
            check_numbers(OPTIONAL[name], value)
        if weight_clip is not None:
            if scheme.float8:
                raise InputError(f"scheme {scheme.name} has no weight clip: float8 numbers need none")
            needed = (linear.out_features, 2)
            if tuple(weight_clip.shape) != needed:
                raise InputError(f"weight_clip has shape {list(weight_clip.shape)}; this layer needs {list(needed)}")
            check_numbers(CLIP, weight_clip, "weight_clip")
        bias = transform.apply_to_bias(linear.weight, linear.bias)
        for name, value in (optional | ({} if bias is None else {"bias": bias.detach()})).items():
            module.get_buffer(name).copy_(value)
        if rounded is None:
            weight = module.transform.apply_to_weight(linear.weight.detach())
            clip = None if weight_clip is None else weight_clip.to(weight.device)
            rounded = round_weight(weight, scheme, clip)
        module.set_weight(*rounded)
        return module

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantLinear":
        self._linear.forget()  # it would hold the memory that is left
        super()._apply(fn, recurse)
        return self

    @property
    def transform(self) -> Transform:
        """What is done to the input."""
        return Transform(**{part: getattr(self, name) for part, name in PARTS.items()})

    @property
    def branch(self) -> Branch | None:
        """What goes beside the product in few bits."""
        basis, basis_scale, weight, scale = (getattr(self, name) for name in BRANCH)
        return None if basis is None else Branch(basis, basis_scale, weight, scale)

    @property
    def takes_steps(self) -> bool:
        """Can `forward` be given the steps around the layer? Not with kinds of activations that only studies use, nor
        with float8."""
        return self._by_steps and self._buffers["input_left"] is None

    def quantize_input(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """X [.., K] -> integers int8 [.., K] and scales float32 [.., 1] of X''.

        In a scheme of float8 such numbers instead of integers.
        With a branch of rank R [.., K + R] and [.., 2], see `kernels.contract.RotateQuantize`.
        Raises InputError if the scheme depends on positions in a frame and `x` isn't made of whole frames.
        """
        if self._by_steps:
            result: tuple[Tensor, Tensor] = rotate_quantize(*rotate_arguments(*self._arguments(x, x.dtype)))
            return result
        if self.scheme.float8:
            return quantize_float8(self.transform.apply(x))
        return self._quantize_generally(self.transform.apply(x))

    def _arguments(
        self,
        x: Tensor,
        dtype: torch.dtype,
        norm: nn.LayerNorm | None = None,
        gelu: bool = False,
        gain: Tensor | None = None,
    ) -> tuple[Tensor, Tensors, Numbers]:
        """Of `kernels.bound.BoundLinear`."""
        # Not by attribute: that takes nn.Module longer than a small layer can spare.
        own, scheme = self._buffers, self.scheme
        shift, presmooth = own["input_shift"], own["input_presmooth"]
        if own["input_left"] is not None:
            x, shift, presmooth = self.transform.before_rotation(x), None, None
        norm_weight, norm_bias, eps = None, None, 0.0
        if norm is not None:
            norm_weight, norm_bias, eps = norm._parameters["weight"], norm._parameters["bias"], norm.eps
        frame_tokens, special_tokens, special_bits = 1, 0, 8
        if scheme.special_bits is not None:
            frame_tokens, special_tokens, special_bits = self._whole_frames(x), self.special_tokens, scheme.special_bits
        tensors = Tensors(
            own["rotation_signs"],
            own["input_smooth"],
            own["input_clip"],
            shift,
            presmooth,
            norm_weight,
            norm_bias,
            own["input_basis"],
            own["input_basis_scale"],
            self.stored_weight,
            own["weight_scale"],
            own["bias"],
            gain,
            own["branch_weight"],
            own["branch_scale"],
        )
        numbers = Numbers(
            scheme.act_bits, frame_tokens, special_tokens, special_bits, scheme.asymmetric, eps, dtype, gelu
        )
        return x, tensors, numbers

    def rounded_input(self, x: Tensor) -> Tensor:
        """X [.., K] -> what the numbers of `quantize_input` stand for, float32 [.., K], with a branch [.., K + R]."""
        q, scale = self.quantize_input(x)
        if self.input_basis is None:
            return dequantize(q, scale)
        main, beside = q.split([self.in_features, self.input_basis.shape[1]], -1)
        return torch.cat((dequantize(main, scale[..., :1]), dequantize(beside, scale[..., 1:])), -1)

    def dequantized_weight(self) -> Tensor:
        """The weight that its few bits stand for, float32 [N, K]: of X'', a branch included."""
        weight, branch = super().dequantized_weight(), self.branch
        return weight if branch is None else branch.together(weight, self.transform)

    def _quantize_generally(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The kinds of activations that only studies use: X'' -> integers and scales, in plain PyTorch."""
        scheme = self.scheme
        if self.input_range is not None:
            high, low = self.input_range[:, :1], self.input_range[:, 1:]
            if not scheme.per_tensor:
                frames = x.shape[:-1].numel() // self._whole_frames(x)
                high, low = (side.expand(frames, -1, -1).reshape(*x.shape[:-1], 1) for side in (high, low))
        else:
            high, low = row_ranges(x)
            if scheme.per_tensor:
                high, low = high.max(), low.min()
        if self.input_clip is not None:
            high, low = high * self.input_clip[0], low * self.input_clip[1]
        return quantize_ranges(x, high, low, scheme.act_bits, scheme.asymmetric)

    def _whole_frames(self, x: Tensor) -> int:
        """How many tokens each of them has that [.., K] is made of."""
        tokens = self.frame_tokens
        if tokens is None or x.shape[:-1].numel() % tokens:
            raise InputError(
                f"scheme {self.scheme.name} needs whole frames of {tokens} tokens, got an input of {list(x.shape)}"
            )
        if self.input_range is not None and len(self.input_range) != tokens:
            raise InputError(
                f"scheme {self.scheme.name} was calibrated for frames of {len(self.input_range)} tokens, not {tokens}; "
                "use images of the calibration set's size"
            )
        return tokens

    def forward(
        self,
        x: Tensor,
        norm: nn.LayerNorm | None = None,
        gelu: bool = False,
        gain: Tensor | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """residual + gain * gelu(y(norm(x))); all but x only if `takes_steps`, see `fused.linear_steps`."""
        dtype = _output_dtype(x)
        own = self._buffers
        y: Tensor
        if self._by_steps:
            for beside in (gain, residual):
                if beside is not None and beside.dtype is not dtype:
                    dtype = torch.promote_types(dtype, beside.dtype)
            x, tensors, numbers = self._arguments(x, dtype, norm, gelu, gain)
            return self._linear(x, residual, tensors, numbers)
        if self.scheme.quantizes_activations:
            product = float8_linear if self.scheme.float8 else int_linear
            y = product(*self.quantize_input(x), self.stored_weight, own["weight_scale"], own["bias"], dtype)
            return y
        bias = None if self.bias is None else self.bias.to(dtype)
        return F.linear(self.transform.apply(x).to(dtype), self.dequantized_weight().to(dtype), bias)


def mark_frames(module: nn.Module, tokens: int, special: int, columns: int | None = None) -> None:
    """Tell everything in `module` that cares how many tokens a frame has, how many of these are special, and how many
    of the others make a row of the picture."""
    for part in module.modules():
        if hasattr(part, "frame_tokens"):
            part.frame_tokens, part.special_tokens = tokens, special  # type: ignore[assignment]  # plain attributes
        if hasattr(part, "columns"):
            part.columns = columns  # type: ignore[assignment]


def _output_dtype(x: Tensor) -> torch.dtype:
    device = "cpu" if x.is_cpu else x.device.type
    autocast = x.is_cpu or torch.amp.is_autocast_available(device)
    return torch.get_autocast_dtype(device) if autocast and torch.is_autocast_enabled(device) else x.dtype
