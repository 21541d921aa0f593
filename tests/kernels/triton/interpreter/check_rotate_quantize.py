import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

import definition
from quantvggt.core.rotation import inner_order, paley, random_signs, rotate
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


def basis_of(generator, d, rank):
    basis = torch.randint(-127, 128, (d, rank), dtype=torch.int8, generator=generator)
    return {"basis": basis, "basis_scale": torch.rand(1, generator=generator) / (127 * d**0.5)}


@pytest.mark.parametrize(
    ("d", "rank", "rows", "dtype"),
    [
        (64, 64, 17, torch.float32),
        (96, 16, 3, torch.float32),
        (80, 16, 1, torch.bfloat16),
        (256, 32, 37, torch.bfloat16),
        (300, 16, 2, torch.float16),
        (33, 32, 5, torch.float32),
    ],
)
def test_a_branch_has_the_bits_of_the_reference(generator, same_bits, d, rank, rows, dtype):
    x = torch.randn(rows, d, generator=generator).to(dtype)
    signs = random_signs(d, 1) if d not in (33, 300) else None
    args = {"x": x, "signs": signs, "smooth": torch.rand(d, generator=generator) + 0.5, "clip": None, "bits": 4}
    args |= basis_of(generator, d, rank)
    for got, expected in zip(rotate_quantize(**args), definition.rotate_quantize(**args), strict=True):
        same_bits(got, expected)


@pytest.mark.parametrize("asymmetric", [False, True])
@pytest.mark.parametrize("d", [64, 96])
def test_every_option_beside_a_branch_has_the_bits_of_the_reference(generator, same_bits, d, asymmetric):
    vectors = [torch.rand(d, generator=generator) + 0.5 for _ in range(3)]
    args = {
        "x": torch.randn(2, 3, d, generator=generator).bfloat16(),
        "signs": random_signs(d, 1),
        "smooth": vectors[0],
        "clip": torch.tensor([0.8, 0.6]),
        "bits": 4,
        "shift": vectors[1],
        "presmooth": vectors[2],
        "frame_tokens": 3,
        "special_tokens": 1,
        "asymmetric": asymmetric,
        **basis_of(generator, d, 16),
    }
    for got, expected in zip(rotate_quantize(**args), definition.rotate_quantize(**args), strict=True):
        same_bits(got, expected)


@pytest.mark.parametrize(("d", "rows", "biased"), [(64, 18, True), (80, 2, True), (256, 5, False)])
def test_a_branch_after_layer_norm_is_that_of_float64(generator, d, rows, biased):
    """And the rest is what is left of the exact values by the integers that were given, whatever they are."""
    rank = 16
    x = torch.randn(rows, d, generator=generator) + 0.3
    weight, bias = (torch.rand(d, generator=generator) + 0.5 for _ in range(2))
    signs, beside = random_signs(d, 1), basis_of(generator, d, rank)
    norm = {"norm_weight": weight, "norm_bias": bias if biased else None, "norm_eps": 1e-2}
    q, scale = rotate_quantize(x, signs, None, None, 8, **norm, **beside)

    y = torch.nn.functional.layer_norm(
        x.double(), (d,), weight.double(), bias.double() if biased else None, norm["norm_eps"]
    )
    basis, unit = beside["basis"].double(), beside["basis_scale"].double()
    step = y.abs().amax(-1, keepdim=True) / 127
    along = (y / step).round() @ basis
    share = along.abs().amax(-1, keepdim=True) / 127
    z, z_scale = q[:, d:].double(), scale[:, 1:].double()
    # A value in the middle between two integers may go either way, and then moves the sums by up to 127.
    assert (z - along / share).abs().max() <= 0.5 + 2 * 127 / share.min()
    assert (z_scale / (share * step * unit) - 1).abs().max() < 1e-2
    rest = rotate(y - z @ basis.t() * (z_scale * unit), signs)
    exact_scale = rest.abs().amax(-1, keepdim=True) / 127
    assert (scale[:, :1] / exact_scale - 1).abs().max() < 1e-5
    assert (q[:, :d] - rest / exact_scale).abs().max() <= 0.5 + 20 * EDGE


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_row_of_zeros_beside_a_branch_and_what_is_not_finite_stays_in_its_row(generator, value):
    x = torch.randn(4, 64, generator=generator)
    x[1] = value
    args = x, None, None, None, 4
    beside = basis_of(generator, 64, 16)
    got, expected = (op(*args, **beside) for op in (rotate_quantize, definition.rotate_quantize))
    rows = [0, 1, 2, 3] if value == 0 else [0, 2, 3]
    for one, other in zip(got, expected, strict=True):
        assert torch.equal(one[rows], other[rows])
