"""The ops that carry the method, registered with torch.library: `rotate_quantize`, `int_linear`, `attention`,
`dequantize_weight` for layers whose activations stay floats, and `float8_linear` for those of float8.

Each takes the fields of its step (`contract`), by place or by name, and returns what the registry's backend makes of
it. They have no gradient: learning uses the differentiable pieces in `core` instead.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from quantvggt.kernels import cpu, reference, registry, scaled_mm, triton
from quantvggt.kernels.contract import Attention, DequantizeWeight, Float8Linear, IntLinear, RotateQuantize


def _op(step: Callable[..., Any], name: str, returns: Any) -> Callable[..., Any]:
    def run(*args: Any) -> Any:
        return registry.run(step(*args))

    # The schema is read from the signature, and the step's is the one place where arguments are listed.
    signature = inspect.signature(step).replace(return_annotation=returns)
    run.__signature__ = signature  # type: ignore[attr-defined]
    torch.library.custom_op(f"quantvggt::{name}", run, mutates_args=()).register_fake(lambda *args: step(*args).empty())
    overload = getattr(torch.ops.quantvggt, name).default

    @functools.wraps(run)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return overload(*args, **kwargs)
        except (TypeError, RuntimeError, OverflowError):
            step(*args, **kwargs)  # who reads the schema sees a wrong type first, but the step says it in one line
            raise

    call.__name__ = call.__qualname__ = name
    call.__doc__ = step.__doc__
    return call


rotate_quantize = _op(RotateQuantize, "rotate_quantize", tuple[Tensor, Tensor])
int_linear = _op(IntLinear, "int_linear", Tensor)
dequantize_weight = _op(DequantizeWeight, "dequantize_weight", Tensor)
float8_linear = _op(Float8Linear, "float8_linear", Tensor)
attention = _op(Attention, "attention", Tensor)

reference.register()
scaled_mm.register()
triton.register()
cpu.register()
