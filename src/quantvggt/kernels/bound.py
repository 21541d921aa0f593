"""`ops.quantized_linear` for one layer, call after call: on a small layer checking every tensor takes longer than the
products, and so does an op's dispatch. What stays is checked when it first comes, and bound to the backends.
"""

from dataclasses import fields
from operator import is_
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


_NAMES = ("x", "residual", *Tensors._fields, *Numbers._fields)
_FIRST = [_NAMES.index(field.name) for field in fields(RotateQuantize)]
_SECOND = [_NAMES.index(field.name) for field in fields(IntLinear)[2:]]


def rotate_arguments(x: Tensor, tensors: Tensors, numbers: Numbers) -> list[Any]:
    """Those of `ops.rotate_quantize`."""
    given = x, None, *tensors, *numbers
    return [given[place] for place in _FIRST]


def linear_arguments(residual: Tensor | None, tensors: Tensors, numbers: Numbers) -> list[Any]:
    """Those of `ops.int_linear` behind q and row_scale."""
    given = None, residual, *tensors, *numbers
    return [given[place] for place in _SECOND]


class BoundLinear:
    """A layer has one for itself. Copied or pickled it is as new: addresses mean nothing elsewhere."""

    def __init__(self) -> None:
        self._known: _Known | None = None

    def __reduce__(self) -> tuple[type["BoundLinear"], tuple[()]]:
        return BoundLinear, ()

    def forget(self) -> None:
        """Let go of the tensors of the last call."""
        self._known = None

    def __call__(self, x: Tensor, residual: Tensor | None, tensors: Tensors, numbers: Numbers) -> Tensor:
        """`ops.quantized_linear` with these arguments."""
        if x.is_cpu and _unobserved():
            known = self._known
            if known is None or not known.fits(x, residual, tensors, numbers):
                known = self._known = _known(x, residual, tensors, numbers)
            quick = None if known is None else known.run(x, residual)
            if quick is not None:
                return quick
        first = rotate_arguments(x, tensors, numbers)
        y: Tensor = quantized_linear(*first, *linear_arguments(residual, tensors, numbers))
        return y


def _unobserved() -> bool:
    """Would nobody notice if a call of an op went straight to its backends: no graph, gradient, mode or profiler?"""
    return not (
        torch.compiler.is_compiling()
        or torch.is_grad_enabled()
        or torch._C._is_tracing()
        or torch.autograd._profiler_enabled()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def _known(x: Tensor, residual: Tensor | None, tensors: Tensors, numbers: Numbers) -> "_Known | None":
    """None if it can't be bound. Raises InputError if an argument is not legal."""
    given = [tensor for tensor in (x, residual, *tensors) if tensor is not None]
    return _Known(x, residual, tensors, numbers) if all(tensor.__class__ in PLAIN for tensor in given) else None


class _Known:
    """Arguments that were checked, for any x and residual of the same types.

    A tensor is known again as the same object at the same place in memory, whatever is written into it.
    """

    def __init__(self, x: Tensor, residual: Tensor | None, tensors: Tensors, numbers: Numbers) -> None:
        first = RotateQuantize(*rotate_arguments(x, tensors, numbers))
        second = IntLinear(*first.empty(), *linear_arguments(residual, tensors, numbers))
        self._tensors, self._numbers, self._types = tensors, numbers, _types(x, residual)
        self._given = [tensor for tensor in tensors if tensor is not None]
        self._places = [tensor.data_ptr() for tensor in self._given]
        # So that nothing else comes to lie there, even if a parameter is given other memory.
        self._held = [tensor.detach() for tensor in self._given]
        self._state = registry.state(first.OP, second.OP)
        self._device, self._width, self._out, self._frame = (
            x.device,
            x.shape[-1],
            len(second.weight),
            first.frame_tokens,
        )
        # What a step had to copy is good until somebody writes into what it was copied from.
        used = [getattr(first if hasattr(first, name) else second, name) for name in tensors._fields]
        places = [tensor.data_ptr() for tensor in used if tensor is not None]
        self._copied = [tensor for tensor, place in zip(self._given, places, strict=True) if tensor.data_ptr() != place]
        counted = not any(tensor.is_inference() for tensor in self._copied)
        self._versions = [tensor._version for tensor in self._copied] if counted else []
        as_given = counted and _types(first.x, second.residual) == self._types
        self._rotate, self._multiply = (registry.bind(step) if as_given else None for step in (first, second))

    def fits(self, x: Tensor, residual: Tensor | None, tensors: Tensors, numbers: Numbers) -> bool:
        """Are these the arguments, and would the same backends be chosen?"""
        return (
            all(map(is_, tensors, self._tensors))
            and numbers == self._numbers
            and _types(x, residual) == self._types
            and [tensor.data_ptr() for tensor in self._given] == self._places
            and registry.state(RotateQuantize.OP, IntLinear.OP) == self._state
            and (not self._versions or [tensor._version for tensor in self._copied] == self._versions)
        )

    def run(self, x: Tensor, residual: Tensor | None) -> Tensor | None:
        """The result; None if a backend isn't bound, or x or residual isn't as plain as most are."""
        if self._rotate is None or self._multiply is None or not self._is_plain(x):
            return None
        *rows, width = x.shape
        if width != self._width or not x.numel() or x.numel() // width % self._frame:
            return None
        if residual is not None and not (self._is_plain(residual) and residual.shape == (*rows, self._out)):
            return None
        y: Tensor = self._multiply(*self._rotate(x), residual)
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
