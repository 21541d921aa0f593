"""`quantized_linear` for one layer on a CPU: what stays is checked once, because on a small layer that takes longer than
the products.
"""

from collections.abc import Callable
from dataclasses import fields
from operator import is_, itemgetter
from typing import Any, NamedTuple

import torch
from torch import Tensor

from quantvggt.kernels import registry
from quantvggt.kernels.contract import IntLinear, RotateQuantize
from quantvggt.kernels.ops import quantized_linear

PLAIN = (Tensor, torch.nn.Parameter)


class Tensors(NamedTuple):
    """Those of a layer and of what stands around it, see `kernels.contract`."""

    signs: Tensor | None
    smooth: Tensor | None
    clip: Tensor | None
    shift: Tensor | None
    presmooth: Tensor | None
    norm_weight: Tensor | None
    norm_bias: Tensor | None
    basis: Tensor | None
    basis_scale: Tensor | None
    weight: Tensor | None
    weight_scale: Tensor | None
    bias: Tensor | None
    gain: Tensor | None
    branch: Tensor | None
    branch_scale: Tensor | None


class Numbers(NamedTuple):
    """All else but x and residual."""

    bits: int
    frame_tokens: int
    special_tokens: int
    special_bits: int
    asymmetric: bool
    norm_eps: float
    out_dtype: torch.dtype
    gelu: bool


def _order(*names: str) -> Callable[[tuple[Any, ...]], tuple[Any, ...]]:
    places = {name: place for place, name in enumerate(("x", "residual", *Tensors._fields, *Numbers._fields))}
    return itemgetter(*(places[name] for name in names))


_FIRST = _order(*(field.name for field in fields(RotateQuantize)))
_SECOND = _order(*(field.name for field in fields(IntLinear)[2:]))


def rotate_arguments(x: Tensor, tensors: Tensors, numbers: Numbers) -> tuple[Any, ...]:
    """Those of `ops.rotate_quantize`."""
    arguments: tuple[Any, ...] = _FIRST((x, None, *tensors, *numbers))
    return arguments


def linear(x: Tensor, residual: Tensor | None, tensors: Tensors, numbers: Numbers) -> Tensor:
    """`ops.quantized_linear`."""
    given = x, residual, *tensors, *numbers
    y: Tensor = quantized_linear(*_FIRST(given), *_SECOND(given))
    return y


class Bound:
    """`linear` with these arguments, checked, for any x and residual of the same types.

    A tensor is known again as the same object at the same place in memory, whatever is written into it.
    Raises InputError if the arguments are not legal.
    """

    def __init__(self, x: Tensor, residual: Tensor | None, tensors: Tensors, numbers: Numbers) -> None:
        self._tensors, self._numbers, self._types = tensors, numbers, _types(x, residual)
        self._given = [tensor for tensor in tensors if tensor is not None]
        self._places = [tensor.data_ptr() for tensor in self._given]
        # So that nothing else comes to lie there, even if a parameter is given other memory.
        self._held = [tensor.detach() for tensor in self._given]
        given = x, residual, *tensors, *numbers
        first = RotateQuantize(*_FIRST(given))
        second = IntLinear(*first.empty(), *_SECOND(given))
        self._state = registry.state(first.OP, second.OP)
        self._device, self._width, self._out, self._frame = x.device, x.shape[-1], len(second.weight), first.frame_tokens
        used = (getattr(first if hasattr(first, name) else second, name) for name in Tensors._fields)
        addresses = [tensor.data_ptr() for tensor in used if tensor is not None]
        copied = [tensor for tensor, address in zip(self._given, addresses, strict=True) if tensor.data_ptr() != address]
        counted = not any(tensor.is_inference() for tensor in copied)  # else nobody counts what is written into them
        self._copied = copied if counted else []
        self._versions = [tensor._version for tensor in self._copied]
        as_given = counted and _types(first.x, second.residual) == self._types
        self._rotate, self._multiply = (registry.bind(step) if as_given else None for step in (first, second))

    def fits(self, x: Tensor, residual: Tensor | None, tensors: Tensors, numbers: Numbers) -> bool:
        """Are these the arguments that it was made from, and would the same backends be chosen?"""
        return (
            all(map(is_, tensors, self._tensors))
            and numbers == self._numbers
            and _types(x, residual) == self._types
            and [tensor.data_ptr() for tensor in self._given] == self._places
            and [tensor._version for tensor in self._copied] == self._versions
            and registry.state(RotateQuantize.OP, IntLinear.OP) == self._state
        )

    def run(self, x: Tensor, residual: Tensor | None) -> Tensor | None:
        """The result; None if a backend can't be bound, or x or residual isn't as plain as most are."""
        if self._rotate is None or self._multiply is None or not self._is_plain(x):
            return None
        *rows, width = x.shape
        if width != self._width or not x.numel() or x.numel() // width % self._frame:
            return None
        if residual is not None and not (self._is_plain(residual) and residual.shape == (*rows, self._out)):
            return None
        q, row_scale = self._rotate(x)
        y: Tensor = self._multiply(q, row_scale, residual)
        return y

    def _is_plain(self, x: Tensor) -> bool:
        return (
            x.__class__ in PLAIN
            and x.layout is torch.strided
            and x.is_contiguous()
            and x.ndim > 0
            and x.device == self._device
            and not x.is_neg()
        )


def _types(x: Tensor, residual: Tensor | None) -> tuple[torch.dtype, torch.dtype | None]:
    return x.dtype, None if residual is None else residual.dtype
