"""The tensors of a quantized layer whose numbers have rules: one table, from which everything else follows.

A layer's buffers, the checks of arguments and of files and what a site's record in config.json says are all read off
`TENSORS`; docs/format.md has it in words.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quantvggt.core.errors import InputError
from quantvggt.core.float8 import FLOAT8, is_number
from quantvggt.core.rotation import inner_order
from quantvggt.core.scheme import Scheme
from quantvggt.kernels.contract import RANKS

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class LayerTensor:
    """name: of the buffer, in checkpoints too.
    sizes: its shape; N and K are the layer's output and input channels, f and g two factors of K, R the rank of its
    low-rank branch, P the tokens of a frame, 1 if all have one range.
    allows, words: what every number in it has to be.
    part: the attribute of `core.transform.Transform` that it is. flag: the key of a site's record in config.json that
    says whether it exists; an optional tensor without one is named in the record together with its shape.
    """

    name: str
    sizes: tuple[str | int, ...]
    allows: Callable[[Tensor], Tensor]
    words: str
    dtype: torch.dtype = torch.float32
    part: str | None = None
    flag: str | None = None

    def holds(self, values: Tensor) -> bool:
        """Whether all of `values` may be in this tensor."""
        return bool(self.allows(values).all())

    def shape(self, letters: Mapping[str, int]) -> tuple[int, ...]:
        """`sizes` with numbers for its letters."""
        return tuple(letters[size] if isinstance(size, str) else size for size in self.sizes)


def _positive(x: Tensor) -> Tensor:
    return (x > 0) & x.isfinite()


def _any(x: Tensor) -> Tensor:
    return torch.ones((), dtype=torch.bool)


def _ranges(x: Tensor) -> Tensor:
    return x.isfinite() & (x * x.new_tensor([1, -1]) >= 0)


WEIGHT8 = LayerTensor("weight", ("N", "K"), is_number, "a number, not NaN", FLOAT8)  # in a scheme of float8
SCALE = LayerTensor("weight_scale", ("N", 1), lambda x: x.isfinite() & (x >= 0), "finite and 0 or more")
CLIP = LayerTensor("input_clip", (2,), lambda x: (x > 0) & (x <= 1), "above 0 and at most 1", flag="input_clip")
OPTIONAL = {
    tensor.name: tensor
    for tensor in (
        LayerTensor("input_shift", ("K",), torch.isfinite, "finite", part="shift"),
        LayerTensor("input_presmooth", ("K",), _positive, "positive", part="presmooth"),
        LayerTensor("input_left", ("f", "f"), torch.isfinite, "finite", part="left"),
        LayerTensor("input_right", ("g", "g"), torch.isfinite, "finite", part="right"),
        LayerTensor(
            "rotation_signs", ("K",), lambda x: x.abs() == 1, "+1 or -1", torch.int8, part="signs", flag="rotation"
        ),
        LayerTensor("input_smooth", ("K",), _positive, "positive", part="smooth", flag="smoothing"),
        CLIP,
        LayerTensor("input_range", ("P", 2), _ranges, "finite, maxima 0 or more and minima 0 or less"),
        LayerTensor("input_basis", ("K", "R"), _any, "an integer", torch.int8),
        LayerTensor("input_basis_scale", (1,), _positive, "positive"),
        LayerTensor("branch_weight", ("N", "R"), _any, "an integer", torch.int8),
        LayerTensor("branch_scale", ("N", 1), SCALE.allows, SCALE.words),
    )
}
BRANCH = ("input_basis", "input_basis_scale", "branch_weight", "branch_scale")
"""Of a layer's low-rank branch: all of them or none."""
TENSORS = {SCALE.name: SCALE, **OPTIONAL}
PARTS = {tensor.part: tensor.name for tensor in OPTIONAL.values() if tensor.part}  # of a Transform
FLAGS = {tensor.flag: tensor for tensor in OPTIONAL.values() if tensor.flag}


def optional_shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """The shapes of the optional ones among a layer's tensors."""
    return {name: tuple(tensors[name].shape) for name in OPTIONAL if name in tensors}


def check_shapes(shapes: Shapes, out_features: int, in_features: int, scheme: Scheme) -> None:
    """Raise InputError unless a layer of this scheme can have optional tensors of these shapes."""
    if "rotation_signs" in shapes:
        inner_order(in_features)
    if CLIP.name in shapes and (scheme.float8 or not scheme.quantizes_activations):
        kind = "float8" if scheme.float8 else "float"
        raise InputError(f"scheme {scheme.name} keeps activations in {kind}, so there is no input clip")
    if ("input_range" in shapes) != scheme.static:
        raise InputError(f"scheme {scheme.name} {'needs' if scheme.static else 'has no use for'} an input range")
    left, right = shapes.get("input_left") or (1,), shapes.get("input_right") or (in_features,)
    positions = shapes.get("input_range") or (1,)
    rank = (shapes.get("input_basis") or (0, RANKS[0]))[-1]
    letters = {"N": out_features, "K": in_features, "R": rank, "f": left[0], "g": in_features // max(1, left[0])}
    letters["P"] = 1 if scheme.per_tensor else positions[0]
    for name, shape in shapes.items():
        needed = OPTIONAL[name].shape(letters)
        if tuple(shape) != needed:
            raise InputError(f"{name} has shape {list(shape)}; this layer needs {list(needed)}")
    branch = [name in shapes for name in BRANCH]
    if any(branch):
        if not all(branch) or rank not in RANKS:
            raise InputError(f"a low-rank branch has {', '.join(BRANCH)} and one of the ranks {RANKS}, not {rank}")
        integers = scheme.quantizes_activations and not scheme.float8
        if scheme.static or scheme.per_tensor or not integers or "input_left" in shapes:
            raise InputError(
                f"scheme {scheme.name}: a low-rank branch needs dynamic ranges per token, of integers, and no learned "
                "map"
            )
    if ("input_left" in shapes) != ("input_right" in shapes) or left[0] * right[0] != in_features:
        raise InputError(
            f"input_left {list(left)} and input_right {list(right)} don't make a map of {in_features} channels"
        )


def check_numbers(tensor: LayerTensor, values: Tensor, name: str | None = None) -> None:
    """Raise InputError unless `values`, an argument called `name`, may be in `tensor`."""
    if not tensor.holds(values):
        raise InputError(f"every number in {name or tensor.name} must be {tensor.words}")
