import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

import definition
from quantvggt.core.rotation import inner_order, paley, random_signs
from quantvggt.kernels.ops import rotate_quantize

# 2^n, 12 2^n, 20 2^n, 28 2^n, 36
SIZES = [1, 2, 64, 256, 1024, 12, 12 * 32, 20 * 16, 28 * 8, 36]
FLOATS = [torch.float32, torch.bfloat16, torch.float16]
EDGE = 1e-5
"""How near to the middle between two integers an exact value must be so that either is right."""


def truth(x, signs, smooth, clip, bits, shift=None, presmooth=None, norm_weight=None, norm_bias=None, norm_eps=1e-5):
    """In float64, with a dense Hadamard matrix: the values in steps of the scale, and the scale."""
    y = x.double().numpy()
    if norm_weight is not None:
        y = (y - y.mean(-1, keepdims=True)) / np.sqrt(y.var(-1, keepdims=True) + norm_eps)
        y = y * norm_weight.double().numpy() + (0 if norm_bias is None else norm_bias.double().numpy())
    y = y - shift.double().numpy() if shift is not None else y
    y = y / presmooth.double().numpy() if presmooth is not None else y
    if signs is not None:
        d = y.shape[-1]
        m = inner_order(d)
        inner = paley(m) if m > 1 else np.ones((1, 1))
        y = (y * signs.numpy()) @ np.kron(hadamard(d // m), inner) / np.sqrt(d)
    y = y / smooth.double().numpy() if smooth is not None else y
    high, low = y.max(-1, keepdims=True).clip(min=0), y.min(-1, keepdims=True).clip(max=0)
    if clip is not None:
        high, low = high * clip[0].item(), low * clip[1].item()
    scale = np.maximum(high, -low) / (2 ** (bits - 1) - 1)
    return y / scale, scale


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("d", [*SIZES, 33])
def test_the_integers_are_those_of_float64(generator, d, bits):
    x = torch.randn(5, d, generator=generator) + 0.3
    vectors = (torch.rand(d, generator=generator) + 0.5 for _ in range(5))
    smooth, shift, presmooth, weight, bias = vectors
    signs, clip = (random_signs(d, 1) if d != 33 else None), torch.tensor([0.8, 0.6])
    args = x, signs, smooth, clip, bits, shift, presmooth
    q, scale = rotate_quantize(*args, norm_weight=weight, norm_bias=bias, norm_eps=1e-2)
    exact, exact_scale = truth(*args, weight, bias, 1e-2)
    top = 2 ** (bits - 1) - 1
    assert np.abs(q.numpy() - exact.clip(-top - 1, top)).max() <= 0.5 + EDGE
    assert np.abs(scale.numpy() / exact_scale - 1).max() < 1e-6


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("d", [*SIZES, 7, 100])
def test_without_layer_norm_it_has_the_bits_of_the_reference(generator, same_bits, d, dtype):
    x = torch.randn(2, 3, d, generator=generator).to(dtype)
    signs = random_signs(d, 1) if d in SIZES else None
    smooth = torch.rand(d, generator=generator) + 0.5
    for got, expected in zip(
        rotate_quantize(x, signs, smooth, None, 8), definition.rotate_quantize(x, signs, smooth, None, 8), strict=True
    ):
        same_bits(got, expected)


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("d", [64, 96])
def test_every_option_has_the_bits_of_the_reference(generator, same_bits, d, asymmetric, bits):
    vectors = [torch.rand(d, generator=generator) + 0.5 for _ in range(3)]
    args = {
        "x": torch.randn(3, 7, d, generator=generator).bfloat16(),
        "signs": random_signs(d, 1),
        "smooth": vectors[0],
        "clip": torch.tensor([0.8, 0.6]),
        "bits": bits,
        "shift": vectors[1],
        "presmooth": vectors[2],
        "frame_tokens": 7,
        "special_tokens": 2,
        "special_bits": 8 if bits < 8 else 4,
        "asymmetric": asymmetric,
    }
    for got, expected in zip(rotate_quantize(**args), definition.rotate_quantize(**args), strict=True):
        same_bits(got, expected)


@pytest.mark.parametrize("special", [0, 1, 5])
def test_all_tokens_of_a_frame_may_be_special_or_none(generator, same_bits, special):
    args = {"x": torch.randn(10, 64, generator=generator), "signs": None, "smooth": None, "clip": None, "bits": 3}
    args |= {"frame_tokens": 5, "special_tokens": special}
    for got, expected in zip(rotate_quantize(**args), definition.rotate_quantize(**args), strict=True):
        same_bits(got, expected)


def test_layer_norm_without_a_bias(generator):
    x, weight = torch.randn(4, 96, generator=generator), torch.rand(96, generator=generator).bfloat16()
    args = x, random_signs(96, 0), None, None, 8
    got, expected = (op(*args, norm_weight=weight) for op in (rotate_quantize, definition.rotate_quantize))
    assert torch.allclose(got[1], expected[1], rtol=1e-6)
    assert (got[0] - expected[0]).abs().max() <= 1


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, which the interpreter computes with
@pytest.mark.parametrize("value", [0.0, 1e-44, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("asymmetric", [False, True])
def test_rows_of_zeros_and_rows_that_are_not_finite_have_the_reference_s_scale(value, asymmetric):
    x = torch.ones(4, 8)
    x[1] = value
    x[2, 3] = value
    got, expected = (
        op(x, None, None, None, 4, asymmetric=asymmetric) for op in (rotate_quantize, definition.rotate_quantize)
    )
    assert torch.equal(got[1], expected[1])
    assert torch.equal(got[0][[0, 3]], expected[0][[0, 3]])


def test_halves_go_to_even():
    x = torch.tensor([[0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 7.0, -3.5]])
    q, scale = rotate_quantize(x, None, None, None, 4)
    assert scale.item() == 1
    assert q.tolist() == [[0, 2, 2, 0, -2, -2, 7, -4]]
