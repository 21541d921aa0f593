"""The ops that carry the method, registered with torch.library: `quantized_linear`, which is `rotate_quantize` and then
`int_linear`, and each of these by itself; `attention`; `dequantize_weight` for layers whose activations stay floats;
`float8_linear` for those of float8.

Each takes the fields of its step (`contract`), by place or by name, and returns what the registry's backend makes of
it. They have no gradient: learning uses the differentiable pieces in `core` instead.
"""

import functools
from collections.abc import Callable
from inspect import Parameter, Signature, signature
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from quantvggt.kernels import cpu, reference, registry, scaled_mm, triton
from quantvggt.kernels.contract import Attention, DequantizeWeight, Float8Linear, IntLinear, RotateQuantize, Step

_quick = torch.library.Library("quantvggt", "FRAGMENT")


def _op(name: str, run: Callable[..., Any], empty: Callable[..., Any], arguments: Signature, doc: str | None) -> Any:
    """run: from arguments to the result; empty: to room for it, once they are checked."""
    # The schema is read from the signature.
    run.__signature__ = arguments  # type: ignore[attr-defined]
    torch.library.custom_op(f"quantvggt::{name}", run, mutates_args=()).register_fake(empty)
    for key in ("CPU", "CUDA"):  # past what custom_op looks up and checks of a result, half of what a call costs
        _quick.impl(name, run, key)
    overload = getattr(torch.ops.quantvggt, name).default

    @functools.wraps(run)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return overload(*args, **kwargs)
        except (TypeError, RuntimeError, OverflowError):
            # Who reads the schema sees a wrong type first, but a step says it in one line.
            empty(*arguments.bind(*args, **kwargs).args)
            raise

    call.__name__ = call.__qualname__ = name
    call.__doc__ = doc
    return call


def _op_of(step: Callable[..., Step], name: str, returns: Any) -> Any:
    # The step's signature is the one place where arguments are listed.
    return _op(
        name,
        lambda *args: registry.run(step(*args)),
        lambda *args: step(*args).empty(),
        signature(step).replace(return_annotation=returns),
        step.__doc__,
    )


def _in_one_call() -> Signature:
    first, second = (list(signature(step).parameters.values()) for step in (RotateQuantize, IntLinear))
    needed = [parameter.replace(default=Parameter.empty) for parameter in first]
    return Signature([*needed, *second[2:]], return_annotation=Tensor)


_FIRST = len(signature(RotateQuantize).parameters)


def _quantized_linear(*args: Any) -> Any:
    """`int_linear` of what `rotate_quantize` gives: all arguments of one, then those of the other but q and row_scale.

    In one call, because on small layers, and where a GPU waits for launches, each call counts.
    """
    run = _recorded if torch.autograd._profiler_enabled() else registry.run
    q, row_scale = run(RotateQuantize(*args[:_FIRST]))
    return run(IntLinear(q, row_scale, *args[_FIRST:]))


def _empty_quantized_linear(*args: Any) -> Tensor:
    q, row_scale = RotateQuantize(*args[:_FIRST]).empty()
    return IntLinear(q, row_scale, *args[_FIRST:]).empty()


def _recorded(step: Step) -> Any:
    """So that a profile tells the two steps of a call apart."""
    with record_function(f"quantvggt::{step.OP}"):
        return registry.run(step)


rotate_quantize = _op_of(RotateQuantize, "rotate_quantize", tuple[Tensor, Tensor])
int_linear = _op_of(IntLinear, "int_linear", Tensor)
dequantize_weight = _op_of(DequantizeWeight, "dequantize_weight", Tensor)
float8_linear = _op_of(Float8Linear, "float8_linear", Tensor)
attention = _op_of(Attention, "attention", Tensor)
quantized_linear = _op(
    "quantized_linear", _quantized_linear, _empty_quantized_linear, _in_one_call(), _quantized_linear.__doc__
)

reference.register()
scaled_mm.register()
triton.register()
cpu.register()
