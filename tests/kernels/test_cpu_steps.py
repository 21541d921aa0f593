"""What the two ops do around the integers, LayerNorm before and an epilogue behind, on every native path."""

import math

import pytest
import torch
import torch.nn.functional as F

import definition
from quantvggt.core.errors import InputError
from quantvggt.core.rotation import random_signs
from quantvggt.kernels import reference, registry
from quantvggt.kernels.ops import int_linear, rotate_quantize

FLOATS = [torch.float32, torch.bfloat16, torch.float16]


def _norm(d):
    g = torch.Generator().manual_seed(3)
    return torch.rand(d, generator=g) + 0.5, torch.randn(d, generator=g)


def _same_rows(same_bits, x, *args, **options):
    got, expected = rotate_quantize(x, *args, **options), definition.rotate_quantize(x, *args, **options)
    for a, b in zip(got, expected, strict=True):
        same_bits(a, b)


@pytest.mark.parametrize("d", [1, 2, 7, 16, 17, 100, 192, 1023, 1024, 4096])
def test_layer_norm_first(cpu_path, threads, same_bits, d):
    weight, bias = _norm(d)
    signs = random_signs(d, 1) if d in (2, 16, 192, 1024, 4096) else None
    for dtype in FLOATS:
        x = (torch.randn(3, 17, d, generator=torch.Generator().manual_seed(0)) * 3 + 1).to(dtype)
        for norm in ({"norm_weight": weight}, {"norm_weight": weight, "norm_bias": bias, "norm_eps": 1e-3}):
            _same_rows(same_bits, x, None, None, None, 8, **norm)
            _same_rows(same_bits, x, signs, weight, torch.tensor([0.8, 0.6]), 4, **norm)
            frames = {"frame_tokens": 17, "special_tokens": 5, "special_bits": 8}
            _same_rows(same_bits, x, signs, None, None, 4, bias, weight, **frames, **norm)


def test_layer_norm_of_many_rows(cpu_path, same_bits):
    # Sums in float64 differ in their order; rounded to float32 they don't.
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 256, generator=g) * (10 * torch.rand(4000, 1, generator=g)) + torch.randn(
        4000, 1, generator=g
    )
    weight, bias = _norm(256)
    _same_rows(same_bits, x, random_signs(256, 1), None, None, 8, norm_weight=weight, norm_bias=bias)


def test_layer_norm_of_constant_and_extreme_rows(cpu_path, same_bits):
    weight, bias = _norm(64)
    x = torch.randn(5, 64) * torch.tensor([0.0, 1e-30, 1e-3, 1e4, 1e18])[:, None]
    x[0] = 3.0
    _same_rows(same_bits, x, None, None, None, 8, norm_weight=weight, norm_bias=bias)


def test_a_norm_of_another_dtype_is_widened(cpu_path, same_bits):
    weight, bias = (value.bfloat16() for value in _norm(64))
    _same_rows(same_bits, torch.randn(9, 64).bfloat16(), None, None, None, 8, norm_weight=weight, norm_bias=bias)
    _same_rows(same_bits, torch.randn(9, 64).double(), None, None, None, 8, norm_weight=weight, norm_bias=bias)
    with pytest.raises(InputError, match="norm_weight has 63 values; 64 are needed"):
        rotate_quantize(torch.randn(9, 64), None, None, None, 8, norm_weight=weight[:63])


def _linear(m, k, n):
    g = torch.Generator().manual_seed(m + k + n)
    q, weight = (torch.randint(-128, 128, (rows, k), dtype=torch.int8, generator=g) for rows in (m, n))
    scales = (torch.rand(rows, 1, generator=g) / (20 * math.sqrt(k)) for rows in (m, n))
    row_scale, weight_scale = scales
    bias, gain = torch.randn(n, generator=g), torch.randn(n, generator=g)
    return (q, row_scale, weight, weight_scale, bias), gain, torch.randn(m, n, generator=g)


@pytest.mark.parametrize("shape", [(1, 8, 1), (13, 100, 33), (50, 256, 64), (250, 64, 70)])
def test_gain_and_residual(cpu_path, threads, same_bits, shape):
    args, gain, residual = _linear(*shape)
    for dtype in FLOATS:
        for each in (
            {"gain": gain},
            {"residual": residual.to(dtype)},
            {"gain": gain.to(dtype), "residual": residual},
            {"gain": gain, "residual": residual.t().contiguous().t()},
        ):
            same_bits(int_linear(*args, dtype, **each), definition.int_linear(*args, dtype, **each))


def test_an_epilogue_leaves_a_negative_zero_alone(cpu_path, same_bits):
    q, weight = torch.tensor([[-1], [1]], dtype=torch.int8), torch.ones(3, 1, dtype=torch.int8)
    tiny = torch.full((2, 1), 1e-30), weight, torch.full((3, 1), 1e-30)
    y = int_linear(q, *tiny, None, torch.float32)
    assert y.signbit().tolist() == [[True] * 3, [False] * 3]
    same_bits(y, definition.int_linear(q, *tiny, None, torch.float32))


def test_what_the_epilogue_is_not_made_for_goes_to_the_reference(cpu_path, same_bits):
    args, gain, residual = _linear(5, 64, 24)
    for each in ({"gain": gain.double()}, {"residual": residual.double()}):
        same_bits(int_linear(*args, torch.float32, **each), definition.int_linear(*args, torch.float32, **each))
    with pytest.raises(InputError, match=r"a residual for an output of \[5, 24\] has that shape, not \[5, 23\]"):
        int_linear(*args, torch.float32, residual=residual[:, :23])
    with pytest.raises(InputError, match="gain has 23 values; 24 are needed"):
        int_linear(*args, torch.float32, gain=gain[:23])


def _gelu(x):
    """Each number of `x` through int_linear's GELU: integers of 1, one row scale for each number."""
    one = torch.ones(1, 1, dtype=torch.int8)
    return int_linear(one.expand(len(x), 1), x[:, None], one, torch.ones(1, 1), None, torch.float32, gelu=True)[:, 0]


def test_gelu_against_float64(cpu_path):
    spread = torch.cat([torch.linspace(-20, 20, 400_001), torch.logspace(-30, 30, 6001)])
    x = torch.cat([spread, -spread])
    exact = 0.5 * x.double() * torch.special.erfc(-x.double() / math.sqrt(2))
    error = (_gelu(x) - exact).abs()
    assert (error <= 3e-7 * x.abs().clamp(min=1)).all()
    near = (x > -1) & (exact != 0)
    assert (error[near] / exact[near].abs()).max() < 1.2e-6
    assert (error[x < -6] < 2e-8).all()


def test_gelu_of_infinities_and_nan(cpu_path):
    y = _gelu(torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0]))
    assert y[0] == torch.inf
    assert y[1].abs() < 1e-30
    assert y[2].isnan()
    assert y[3] == 0


def test_gelu_has_the_same_bits_on_every_path(cpu_path, monkeypatch, same_bits):
    x = torch.linspace(-12, 12, 100_003)
    got = _gelu(x)
    monkeypatch.setattr(registry, "_forced", "cpu-portable")
    same_bits(got, _gelu(x))


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_whole_epilogue(cpu_path, threads, dtype):
    args, gain, residual = _linear(40, 96, 50)
    steps = {"gelu": True, "gain": gain, "residual": residual.to(dtype)}
    expected = definition.int_linear(*args, torch.float32, **steps)
    got = int_linear(*args, dtype, **steps)
    step = {torch.float32: 2e-6, torch.bfloat16: 2**-8, torch.float16: 2**-10}[dtype]
    torch.testing.assert_close(got.float(), expected, rtol=step, atol=2e-6)


def test_opcheck(cpu_path):
    weight, bias = _norm(64)
    x = torch.randn(2, 3, 64).bfloat16()
    torch.library.opcheck(
        torch.ops.quantvggt.rotate_quantize.default,
        (x, None, None, None, 8),
        {"norm_weight": weight, "norm_bias": bias},
    )
    args, gain, residual = _linear(6, 64, 24)
    torch.library.opcheck(
        torch.ops.quantvggt.int_linear.default,
        (*args, torch.bfloat16),
        {"gelu": True, "gain": gain, "residual": residual},
        rtol=1e-2,
        atol=1e-2,
    )


@pytest.mark.parametrize("eps", [1e-6, 1e-5])
def test_the_definition_of_layer_norm_against_float64(eps):
    x = torch.randn(40, 192, generator=torch.Generator().manual_seed(0)) * 5 + 2
    weight, bias = _norm(192)
    exact = F.layer_norm(x.double(), (192,), weight.double(), bias.double(), eps)
    torch.testing.assert_close(reference.layer_norm(x, weight, bias, eps).double(), exact, rtol=1e-6, atol=2e-6)
    exact = F.layer_norm(x.double(), (192,), weight.double(), None, eps)
    torch.testing.assert_close(reference.layer_norm(x, weight, None, eps).double(), exact, rtol=1e-6, atol=2e-6)


def test_the_definition_of_the_epilogue_against_float64():
    (q, row_scale, weight, weight_scale, bias), gain, residual = _linear(9, 64, 24)
    y = (q.long() @ weight.long().t()).double() * row_scale.double() * weight_scale.double().t() + bias.double()
    exact = residual.double() + gain.double() * F.gelu(y)
    args = q, row_scale, weight, weight_scale, bias, torch.float32
    got = definition.int_linear(*args, gelu=True, gain=gain, residual=residual)
    torch.testing.assert_close(got.double(), exact, rtol=1e-6, atol=1e-6)
