"""The ops' definition in PyTorch, called as the ops are."""

from typing import Any

from torch import Tensor

from quantvggt.kernels import reference
from quantvggt.kernels.contract import Attention, DequantizeWeight, IntLinear, RotateQuantize


def rotate_quantize(*args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    return reference.rotate_quantize(RotateQuantize(*args, **kwargs))


def int_linear(*args: Any, **kwargs: Any) -> Tensor:
    return reference.int_linear(IntLinear(*args, **kwargs))


def dequantize_weight(*args: Any, **kwargs: Any) -> Tensor:
    return reference.dequantize_weight(DequantizeWeight(*args, **kwargs))


def attention(*args: Any, **kwargs: Any) -> Tensor:
    return reference.attention(Attention(*args, **kwargs))
