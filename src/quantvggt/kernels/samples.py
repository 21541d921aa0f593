"""Steps of VGGT-1B by which backends on a CPU are timed, and what a float model does in their place."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from quantvggt.kernels.contract import (
    FLOATS,
    Attention,
    DequantizeWeight,
    Float8Linear,
    IntLinear,
    RotateQuantize,
    Step,
)

CHANNELS, HEADS = 1024, 16
TOKENS = 1041  # of a frame of 518x392 pixels
ROWS = 256  # of a product: several blocks for every path, and still quick where a path is slow
TYPES = {dtype: str(dtype).removeprefix("torch.") for dtype in FLOATS}
_OF_WEIGHTS = (IntLinear, DequantizeWeight)

Floats = dict[str, Callable[[], Any]]


class Sample(NamedTuple):
    """What `make` gives: a step, and by name what float models do in its place. shape: for people."""

    shape: str
    make: Callable[[], tuple[Step, Floats]]


def kind_of(step: Step) -> str:
    """What of a step, besides its op, may decide which backend is the quickest."""
    if isinstance(step, RotateQuantize):
        return TYPES[step.x.dtype]
    if isinstance(step, _OF_WEIGHTS):
        return "8-bit weights" if step.weight.dtype is torch.int8 else "4-bit weights"
    if isinstance(step, Float8Linear):
        return "float8"
    return TYPES[step.qkv.dtype] if step.score_bits == 16 else "8-bit queries and keys"


def _rotation() -> tuple[Step, Floats]:
    x, ones = _normal(TOKENS, CHANNELS), torch.ones(CHANNELS, device="cpu", dtype=torch.float32)
    signs = torch.ones(CHANNELS, device="cpu", dtype=torch.int8)
    step = RotateQuantize(x, signs, ones, None, 4, norm_weight=ones, norm_bias=ones)
    return step, {"float model (LayerNorm alone)": lambda: F.layer_norm(x, (CHANNELS,), ones, ones)}


def _product(weight: Tensor) -> tuple[Step, Floats]:
    """As a block's proj and fc2 run: with the gain and the residual behind them."""
    q, ones = _integers(ROWS, CHANNELS), torch.ones(CHANNELS, device="cpu", dtype=torch.float32)
    residual = _normal(ROWS, CHANNELS)
    step = IntLinear(q, ones[:ROWS], weight, ones, ones, torch.float32, gain=ones, residual=residual)

    def floats(dtype: torch.dtype) -> Callable[[], Tensor]:
        x, w, b = (value.to(dtype) for value in (_normal(ROWS, CHANNELS), _normal(CHANNELS, CHANNELS), ones))
        return lambda: residual + F.linear(x, w, b) * ones

    types = {"bfloat16": torch.bfloat16, "float32": torch.float32}
    return step, {f"float model, {name}": floats(dtype) for name, dtype in types.items()}


def _attention() -> tuple[Step, Floats]:
    ones = torch.ones(CHANNELS // HEADS, device="cpu", dtype=torch.float32)
    angles = _normal(TOKENS, CHANNELS // HEADS)
    qkv = _normal(1, TOKENS, 3 * CHANNELS).bfloat16()
    step = Attention(qkv, HEADS, ones, ones, ones, ones, 1e-5, angles.cos(), angles.sin())
    return step, {}  # the reference is what float models do


PRODUCT = f"{ROWS} x {CHANNELS} x {CHANNELS}"
SAMPLES = {
    (RotateQuantize.OP, "float32"): Sample(f"{TOKENS} x {CHANNELS}, LayerNorm first", _rotation),
    (IntLinear.OP, "8-bit weights"): Sample(PRODUCT, lambda: _product(_integers(CHANNELS, CHANNELS))),
    (IntLinear.OP, "4-bit weights"): Sample(PRODUCT, lambda: _product(_integers(CHANNELS, CHANNELS // 8, torch.int32))),
    (Attention.OP, "bfloat16"): Sample(f"{TOKENS} tokens, {HEADS} heads of {CHANNELS // HEADS}", _attention),
}
"""By op and kind; what isn't here has one backend, or one that is the quickest everywhere."""


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), device="cpu", dtype=torch.float32)


def _integers(rows: int, columns: int, dtype: torch.dtype = torch.int8) -> Tensor:
    most = torch.iinfo(dtype).max
    generator = torch.Generator().manual_seed(0)
    return torch.randint(-most, most, (rows, columns), generator=generator, device="cpu", dtype=dtype)
