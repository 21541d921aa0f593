"""Attention with 8-bit queries and keys: their integers bit for bit, and what comes out."""

import math

import pytest
import torch

import definition
from quantvggt.kernels.contract import Attention
from quantvggt.kernels.ops import attention
from quantvggt.kernels.reference import _finite_in_8_bits
from quantvggt.kernels.triton import attention8
from quantvggt.nn.thinned import seen_by_others

CUT = 2.5
"""Triton's interpreter cuts bfloat16 off where GPUs round it: twice the error, see test_compile.py."""
# (batch, frames, tokens, heads, channels): several blocks of queries (16) and keys (32), ragged, whole, one token.
SHAPES = [
    (2, 1, 41, 3, 64),
    (1, 3, 32, 2, 32),
    (1, 1, 1, 1, 64),
    (1, 2, 20, 4, 16),
    (1, 1, 33, 2, 48),
    (1, 2, 9, 1, 128),
]


def call(generator, batch, frames, tokens, heads, d, dtype, offset=0.0):
    norms = [torch.rand(d, generator=generator) + 0.5 for _ in range(4)]
    angles = torch.randn(tokens, d, generator=generator)
    qkv = torch.randn(batch, frames * tokens, 3 * heads * d, generator=generator)
    return {
        "qkv": (qkv + offset).to(dtype),
        "num_heads": heads,
        **dict(zip(("q_weight", "q_bias", "k_weight", "k_bias"), norms, strict=True)),
        "eps": 1e-5,
        "cosine": angles.cos(),
        "sine": angles.sin(),
        "score_bits": 8,
    }


def check(args):
    got, expected = attention(**args), definition.attention(**args)
    doubles = {
        name: value.double() if isinstance(value, torch.Tensor) and name not in ("cosine", "sine", "seen") else value
        for name, value in args.items()
    }
    truth = definition.attention(**doubles)
    lost, allowed = ((y.double() - truth).norm() for y in (got, expected))
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    assert lost <= CUT * allowed + 1e-4 * truth.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES)
def test_attention(generator, shape, dtype):
    check(call(generator, *shape, dtype))


@pytest.mark.parametrize("tokens", [17, 32])
def test_thinned_out(generator, tokens):
    args = call(generator, 2, 3, tokens, 2, 64, torch.float16)
    check(args | {"seen": seen_by_others(tokens, tokens - 12, 4, 2, torch.device("cpu"))})
    weights = torch.randint(-2, 3, (tokens,), generator=generator).float()
    weights[weights == -2] = -math.inf
    check(args | {"seen": weights})
    check(args | {"seen": torch.full((tokens,), -math.inf)})  # every frame by itself


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_queries_and_keys_have_the_bits_of_the_reference(generator, shape):
    batch, frames, tokens, heads, d = shape
    n = frames * tokens
    prepared = torch.randn(2, batch, n, heads, d, generator=generator).half()
    prepared[0, 0, 0], prepared[0, 0, 1] = 0, 1e-7
    prepared[1, ..., 0] += 50
    qkv = torch.zeros(batch, n, 3 * heads * d).half()
    step = Attention(qkv, heads, None, None, None, None, 0.0, None, None, score_bits=8)
    mean = prepared[1].mean(1, dtype=torch.float32)
    integers = torch.empty(2, batch, heads, n, attention8.width_of(step), dtype=torch.int8)
    scales = torch.empty(integers.shape[:-1])
    attention8.plan_rounding(step, prepared, mean, integers, scales).run()
    queries, keys = prepared.float().transpose(2, 3)
    for got, scale, floats, unit in (
        (integers[0], scales[0], queries, math.log2(math.e) / math.sqrt(d)),
        (integers[1], scales[1], keys - mean[:, :, None], 1.0),
    ):
        expected, expected_scale = _finite_in_8_bits(floats)
        assert torch.equal(got[..., :d], expected)
        torch.testing.assert_close(scale, expected_scale[..., 0] * unit, rtol=1e-6, atol=0)
        assert got[..., d:].eq(0).all()


def test_numbers_that_are_none_spread_as_defined(generator):
    qkv = torch.randn(1, 40, 3 * 2 * 32, generator=generator).half()
    qkv[0, 3, 0] = math.inf  # a query of head 0
    qkv[0, 39, 96] = math.nan  # a key of head 1
    got = attention(qkv, 2, None, None, None, None, 0.0, None, None, score_bits=8)
    assert got[0, 3, :32].isnan().all()
    assert got[0, [0, 39], :32].isfinite().all()
    assert got[..., 32:].isnan().all()
