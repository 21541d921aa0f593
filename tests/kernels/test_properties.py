"""Whatever the ops are called with, on any backend: the reference's result, or InputError where that is not legal."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields
from random import Random
from typing import Any

import pytest
import torch
from hypothesis import given, note, settings
from hypothesis import strategies as st
from torch import Tensor

import definition
from quantvggt.core.errors import InputError
from quantvggt.core.float8 import FLOAT8
from quantvggt.core.packing import pack_int4
from quantvggt.core.rotation import random_signs
from quantvggt.kernels import bound, ops
from quantvggt.kernels.contract import RANKS, RotateQuantize

FLOATS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
CHANNELS = [1, 2, 3, 7, 8, 12, 16, 20, 33, 64, 65, 96, 130, 256]
ROTATED = {1, 2, 8, 12, 16, 20, 64, 96, 256}  # have a Hadamard matrix
MANY = pytest.param(1000, marks=pytest.mark.slow)
examples = pytest.mark.parametrize("count", [120, MANY])

Call = dict[str, Any]


class Numbers:
    """Everything about a call comes from one drawn seed: evenly spread, arguments meet more paths of the code than with
    hypothesis's preference for small ones."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.generator = torch.Generator().manual_seed(random.randrange(1 << 32))

    def flag(self) -> bool:
        return self.random.random() < 0.5

    def pick(self, choices: Sequence[Any]) -> Any:
        return self.random.choice(choices)

    def floats(self, *shape: int, dtype: torch.dtype = torch.float32, positive: bool = False) -> Tensor:
        x = torch.randn(shape, generator=self.generator)
        return self.laid_out((x.abs() + 0.5 if positive else x).to(dtype))

    def integers(self, *shape: int, bits: int = 8) -> Tensor:
        half = 1 << (bits - 1)
        return self.laid_out(torch.randint(-half, half, shape, dtype=torch.int8, generator=self.generator))

    def weight(self, n: int, k: int) -> Tensor:
        if self.flag():
            return self.integers(n, k)
        return self.laid_out(pack_int4(self.integers(n, k, bits=4)) if n else torch.empty(0, -(-k // 8)).int())

    def laid_out(self, x: Tensor) -> Tensor:
        """In one piece or not."""
        return torch.stack((x, x), -1)[..., 0] if self.random.random() < 0.2 else x

    def maybe(self, *shape: int, dtypes: list[torch.dtype], positive: bool = False) -> Tensor | None:
        return self.floats(*shape, dtype=self.pick(dtypes), positive=positive) if self.flag() else None

    def low_rank(self, name: str, count: int, scales: int) -> Call:
        """`name` [count, R] and its scales, or nothing."""
        if self.flag():
            return {}
        scale = self.floats(scales, positive=True) / 1024
        return {name: self.integers(count, self.pick(RANKS)), f"{name}_scale": scale}

    def rows(self, of: int) -> tuple[int, ...]:
        """A shape of whole groups `of` rows: [groups, of], [rows], or of one row []."""
        groups = self.random.randint(0, 5)
        return self.pick([(groups, of), (groups * of,), *([()] if groups * of == 1 else [])])


def rotate_quantize_call(random: Random) -> Call:
    numbers = Numbers(random)
    k, frame_tokens = numbers.pick(CHANNELS), random.randint(1, 20)
    norm = numbers.maybe(k, dtypes=FLOATS)
    return {
        "x": numbers.floats(*numbers.rows(frame_tokens), k, dtype=numbers.pick(FLOATS)),
        "signs": numbers.laid_out(random_signs(k, 0)) if k in ROTATED and numbers.flag() else None,
        "smooth": numbers.maybe(k, dtypes=[torch.float32], positive=True),
        "clip": numbers.maybe(2, dtypes=[torch.float32], positive=True),
        "bits": random.randint(2, 8),
        "shift": numbers.maybe(k, dtypes=[torch.float32]),
        "presmooth": numbers.maybe(k, dtypes=[torch.float32], positive=True),
        "frame_tokens": frame_tokens,
        "special_tokens": random.randint(0, frame_tokens),
        "special_bits": random.randint(2, 8),
        "asymmetric": numbers.flag(),
        "norm_weight": norm,
        "norm_bias": None if norm is None else numbers.maybe(k, dtypes=FLOATS),
        "norm_eps": numbers.pick([1e-6, 1e-2]),
        **numbers.low_rank("basis", k, 1),
    }


def int_linear_call(random: Random) -> Call:
    numbers = Numbers(random)
    k, n = numbers.pick(CHANNELS), random.randint(0, 70)
    rows = numbers.rows(random.randint(1, 20))
    low_rank = numbers.low_rank("branch", n, n)
    rank = low_rank["branch"].shape[1] if low_rank else 0
    return {
        "q": numbers.integers(*rows, k + rank),
        "row_scale": numbers.floats(*rows, 2 if rank else 1, positive=True) / (64 * math.sqrt(k)),
        "weight": numbers.weight(n, k),
        "weight_scale": numbers.floats(n, 1, positive=True) / 64,
        "bias": numbers.maybe(n, dtypes=FLOATS),
        "out_dtype": numbers.pick(FLOATS),
        "gelu": numbers.flag(),
        "gain": numbers.maybe(n, dtypes=FLOATS),
        "residual": numbers.maybe(*rows, n, dtypes=FLOATS),
        **low_rank,
    }


def quantized_linear_call(random: Random) -> Call:
    numbers = Numbers(random)
    first = {"basis": None, "basis_scale": None, **rotate_quantize_call(random)}
    (*rows, k), n = first["x"].shape, random.randint(0, 70)
    second = {
        "weight": numbers.weight(n, k),
        "weight_scale": numbers.floats(n, 1, positive=True) / (64 * math.sqrt(k)),
        "bias": numbers.maybe(n, dtypes=FLOATS),
        "out_dtype": numbers.pick(FLOATS),
        "gelu": numbers.flag(),
        "gain": numbers.maybe(n, dtypes=FLOATS),
        "residual": numbers.maybe(*rows, n, dtypes=FLOATS),
        "branch": None,
        "branch_scale": None,
    }
    if first["basis"] is not None:
        rank = first["basis"].shape[1]
        second |= {"branch": numbers.integers(n, rank), "branch_scale": numbers.floats(n, positive=True) / 1024}
    return {**first, **second}


def dequantize_weight_call(random: Random) -> Call:
    numbers = Numbers(random)
    k, n = numbers.pick(CHANNELS), random.randint(0, 70)
    return {
        "weight": numbers.weight(n, k),
        "weight_scale": numbers.floats(n, 1),
        "channels": k,
        "out_dtype": numbers.pick(FLOATS),
        "inputs": numbers.pick([None, *(some for some in range(1, k + 1) if k % some == 0)]),
    }


def float8_linear_call(random: Random) -> Call:
    numbers = Numbers(random)
    k, n = numbers.pick(CHANNELS), random.randint(0, 70)
    rows = numbers.rows(random.randint(1, 20))
    return {
        "q": numbers.floats(*rows, k).to(FLOAT8),
        "row_scale": numbers.floats(*rows, 1, positive=True),
        "weight": numbers.floats(n, k).to(FLOAT8),
        "weight_scale": numbers.floats(n, 1, positive=True),
        "bias": numbers.maybe(n, dtypes=FLOATS),
        "out_dtype": numbers.pick(FLOATS),
    }


def attention_call(random: Random) -> Call:
    numbers = Numbers(random)
    batch, heads, d = numbers.pick([0, 1, 1, 2]), random.randint(1, 3), numbers.pick([4, 6, 32, 48, 64, 128])
    frames, tokens = numbers.pick([0, 1, 1, 2, 3, 4]), random.randint(1, 60)
    dtype, normed, turned = numbers.pick(FLOATS), numbers.flag(), d % 4 == 0 and numbers.flag()
    kinds = [numbers.pick([torch.float32, torch.float64, dtype]) for _ in range(2)]
    q_norm, k_norm = (
        (numbers.floats(d, dtype=kind), numbers.maybe(d, dtypes=[kind])) if normed else (None, None) for kind in kinds
    )
    return {
        "qkv": numbers.floats(batch, frames * tokens, 3 * heads * d, dtype=dtype),
        "num_heads": heads,
        "q_weight": q_norm[0],
        "q_bias": q_norm[1],
        "k_weight": k_norm[0],
        "k_bias": k_norm[1],
        "eps": numbers.pick([1e-6, 1e-2]),
        "cosine": numbers.floats(tokens, d) if turned else None,
        "sine": numbers.floats(tokens, d) if turned else None,
        "seen": torch.tensor(random.choices([0.0, math.log(4), -math.inf], k=tokens)) if numbers.flag() else None,
        "score_bits": numbers.pick([16, 16, 8]),
    }


WRONG_NUMBERS: dict[str, list[Any]] = {
    "bits": [-1, 0, 1, 9, 1 << 40, 1 << 70, True, 2.5, "8", None],
    "special_bits": [-1, 0, 1, 9, 1 << 40, 1 << 70, 2.5, None],
    "frame_tokens": [-1, 0, 1 << 70, 2.5, "1", None],
    "special_tokens": [-1, 21, 1 << 40, 1 << 70, 2.5, None],
    "norm_eps": [-1e-6, 1e39, math.nan, math.inf, "0", None],
    "out_dtype": [torch.int8, torch.bool, torch.complex64, torch.float8_e4m3fn, "float32", None],
    "channels": [-1, 0, 1 << 31, 1 << 70, 2.5, "8", None],
    "inputs": [-1, 0, 1 << 40, 1 << 70, 2.5, "2"],
    "num_heads": [-1, 0, 1 << 40, 1 << 70, 2.5, "2", None],
    "score_bits": [-8, 0, 1, 7, 32, 1 << 70, True, 8.5, "8", None],
    "eps": [-1e-6, 1e39, math.nan, math.inf, "0", None],
}
WRONG_DTYPES = [torch.int16, torch.bool, torch.complex64, torch.float8_e4m3fn]
WHOLE = ("x", "q", "qkv", "weight", "residual", "cosine", "sine", "seen")  # the others are vectors of a known length
REQUIRED = ("x", "q", "row_scale", "weight", "weight_scale", "qkv")


def illegal(call: Call) -> Iterator[Call]:
    """The legal `call` with one argument that is not, for each argument and each way to be wrong."""
    for name, value in call.items():
        # Flags may be anything: torch takes what is true or false.
        if value is None or isinstance(value, bool):
            continue
        wrongs = _wrong_tensors(call, name, value) if isinstance(value, Tensor) else WRONG_NUMBERS[name]
        for wrong in wrongs:
            yield {**call, name: wrong}


def _wrong_tensors(call: Call, name: str, value: Tensor) -> list[Any]:
    wrong: list[Any] = [value.to(dtype) for dtype in WRONG_DTYPES if dtype != value.dtype]
    wrong += [3.5, "x", [1.0]]
    wrong += [value.to_sparse()] if value.dtype != FLOAT8 else []  # PyTorch has no sparse ones
    wrong += [torch.zeros(2, 3, 5, 7, 11)] if name != "x" else []
    # A vector of one value may have any shape.
    wrong += [value.new_zeros(())] if name in WHOLE or value.numel() != 1 else []
    # Alone on its device a tensor would be where all of them are.
    wrong += [value.to("meta")] if sum(isinstance(other, Tensor) for other in call.values()) > 1 else []
    wrong += [None] if name in REQUIRED else []
    wrong += [torch.cat((value, value[:1]))] if name not in WHOLE and len(value) else []
    wrong += (
        [value[..., :-1]]
        if name in ("residual", "weight", "cosine", "sine", "basis", "branch") and value.shape[-1]
        else []
    )
    wrong += [value[..., :0]] if name in ("x", "q", "qkv") else []
    return wrong


def _search(check: Callable[[Call], None], call: Callable[[Random], Call], count: int) -> None:
    """The same examples in every run."""

    @settings(max_examples=count, deadline=None, derandomize=True, database=None)
    @given(st.randoms(use_true_random=True))
    def search(random: Random) -> None:
        made = call(random)
        note(str({name: _briefly(value) for name, value in made.items()}))
        check(made)

    search()


def _briefly(value: Any) -> Any:
    return (value.dtype, list(value.shape), value.stride()) if isinstance(value, Tensor) else value


def _same(got: Tensor, expected: Tensor) -> None:
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    assert torch.equal(got.contiguous().flatten().view(torch.uint8), expected.contiguous().flatten().view(torch.uint8))


def _whole(call: Call) -> Call:
    return {name: value.contiguous() if isinstance(value, Tensor) else value for name, value in call.items()}


@examples
def test_rotate_quantize(integer_backend, count):
    def check(call):
        for got, expected in zip(ops.rotate_quantize(**call), definition.rotate_quantize(**_whole(call)), strict=True):
            _same(got, expected)

    _search(check, rotate_quantize_call, count)


@examples
def test_int_linear(integer_backend, count):
    _search(lambda call: _as_defined(ops.int_linear(*call.values()), call), int_linear_call, count)


def _as_defined(got: Tensor, call: Call) -> None:
    """Is this what `int_linear` gives?"""
    expected = definition.int_linear(**_whole(call))
    if not call["gelu"]:
        return _same(got, expected)
    bare = {**call, "gelu": False, "gain": None, "residual": None, "out_dtype": torch.float64}
    before = definition.int_linear(**bare).abs()
    gain = 1.0 if call["gain"] is None else call["gain"].abs().double()
    added = 0.0 if call["residual"] is None else call["residual"].abs().double()
    rounding = torch.finfo(call["out_dtype"])
    most = 3e-7 * before.clamp(min=1) * gain + 2**-22 * (before * gain + added)
    most = most + rounding.eps * expected.double().abs() + rounding.tiny
    assert got.dtype == expected.dtype
    assert ((got.double() - expected.double()).abs() <= most).all()


def _in_two(call: Call) -> Call:
    """A call of `quantized_linear` as one of `int_linear`, by the definition of what comes before."""
    first = {field.name: call[field.name] for field in fields(RotateQuantize)}
    q, row_scale = definition.rotate_quantize(**_whole(first))
    return {"q": q, "row_scale": row_scale, **{name: call[name] for name in call if name not in first}}


@examples
def test_quantized_linear(integer_backend, count):
    def check(call):
        _as_defined(ops.quantized_linear(**call), _in_two(call))

    _search(check, quantized_linear_call, count)


def _again(linear: bound.BoundLinear, call: Call) -> Tensor:
    tensors, numbers = (kind(*(call[name] for name in kind._fields)) for kind in (bound.Tensors, bound.Numbers))
    return linear(call["x"], call["residual"], tensors, numbers)


@examples
def test_bound_linear(integer_backend, count):
    """Again and again, with other rows and with fewer of them."""

    def check(call):
        linear = bound.BoundLinear()
        frame = call["frame_tokens"]
        rows = {name: call[name] for name in ("x", "residual") if call[name] is not None}
        turned = {name: -value for name, value in rows.items()}
        fewer = {name: value.flatten(0, -2)[:frame] for name, value in rows.items() if value.ndim > 1}
        for other in (call, call, {**call, **turned}, {**call, **fewer}, call):
            _same(_again(linear, other), ops.quantized_linear(**other))

    with torch.no_grad():
        _search(check, quantized_linear_call, count)


@examples
def test_bound_linear_refuses_what_the_op_refuses(integer_backend, count):
    def check(call):
        linear = bound.BoundLinear()
        _again(linear, call)
        for wrong in illegal(call):
            if isinstance(wrong["x"], Tensor) and isinstance(wrong["residual"], Tensor | None):
                with pytest.raises(InputError) as refused:
                    _again(linear, wrong)
                assert "\n" not in str(refused.value)

    with torch.no_grad():
        _search(check, quantized_linear_call, count // 4)


@examples
def test_dequantize_weight(dequantizing_backend, count):
    _search(
        lambda call: _same(ops.dequantize_weight(**call), definition.dequantize_weight(**_whole(call))),
        dequantize_weight_call,
        count,
    )


@examples
def test_attention(attention_backend, count):
    def check(call):
        call = _whole(call)
        got, expected = ops.attention(**call), definition.attention(**call)
        if call["qkv"].dtype != torch.bfloat16 or not expected.numel():
            return _same(got, expected)
        doubles = {
            name: value.double() if isinstance(value, Tensor) and name not in ("cosine", "sine", "seen") else value
            for name, value in call.items()
        }
        truth = definition.attention(**doubles)
        lost, allowed = ((y.double() - truth).norm() for y in (got, expected))
        assert got.dtype == torch.bfloat16
        assert got.shape == truth.shape
        assert lost <= 1.5 * allowed + 0.004 * truth.norm()

    _search(check, attention_call, count)


@pytest.mark.parametrize(
    ("op", "call"),
    [
        (ops.rotate_quantize, rotate_quantize_call),
        (ops.int_linear, int_linear_call),
        (ops.quantized_linear, quantized_linear_call),
    ],
)
@examples
def test_illegal_integer_calls(integer_backend, op, call, count):
    _search(lambda made: _refuses(op, made), call, count // 4)


@examples
def test_illegal_dequantize_weight_calls(dequantizing_backend, count):
    _search(lambda made: _refuses(ops.dequantize_weight, made), dequantize_weight_call, count // 4)


@examples
def test_illegal_float8_calls(count):
    _search(lambda made: _refuses(ops.float8_linear, made), float8_linear_call, count // 4)


@examples
def test_illegal_attention_calls(attention_backend, count):
    _search(lambda made: _refuses(ops.attention, made), attention_call, count // 4)


def _refuses(op: Any, call: Call) -> None:
    for wrong in illegal(call):
        with pytest.raises(InputError) as refused:
            op(**wrong)
        assert "\n" not in str(refused.value)


def test_tensors_without_values_give_results_without_values():
    x = torch.ones(3, 8, device="meta")
    q, scale = ops.rotate_quantize(x, None, None, None, 8)
    assert (q.device.type, q.shape, scale.shape) == ("meta", (3, 8), (3, 1))
