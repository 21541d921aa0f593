import numpy as np
import pytest
import torch

from quantvggt.core.affine import dequantize, qmax, quantize_ranges, quantize_rows, quantize_weight, row_ranges


def test_hand_computed_row():
    # absmax 7 -> scale 1: halves go to the even neighbour.
    q, scale = quantize_rows(torch.tensor([[7.0, 0.5, 1.5, 2.5, -0.5, -6.6]]), 4)
    assert q.tolist() == [[7, 0, 2, 2, 0, -7]]
    assert scale.tolist() == [[1.0]]
    assert q.dtype == torch.int8
    assert scale.dtype == torch.float32


def test_clip_scales_the_range_and_saturates_at_both_ends():
    # max 10 * 0.7 = 7, -min 20 * 0.25 = 5: scale 1, so 10 -> 7 and -20 -> -8, one below -qmax.
    q, scale = quantize_rows(torch.tensor([[10.0, 3.2, -20.0]]), 4, torch.tensor([0.7, 0.25]))
    torch.testing.assert_close(scale, torch.ones(1, 1))
    assert q.tolist() == [[7, 3, -8]]


def test_clip_on_a_one_sided_row_counts_zero_as_its_other_end():
    _, scale = quantize_rows(torch.tensor([[4.0, 14.0]]), 4, torch.tensor([0.5, 1.0]))
    assert scale.tolist() == [[1.0]]


def test_weight_clip_clamps_each_side_at_its_own_bound():
    # [-20 * 0.25, 14 * 0.5] = [-5, 7]: scale 1, and -20 stops at -5, not at -8.
    weight = torch.tensor([[14.0, 3.2, -20.0], [1.0, -2.0, 7.0]])
    q, scale = quantize_weight(weight, 4, torch.tensor([[0.5, 0.25], [1.0, 1.0]]))
    assert scale.tolist() == [[1.0], [1.0]]
    assert q.tolist() == [[7, 3, -5], [1, -2, 7]]


@pytest.mark.parametrize("bits", range(2, 9))
def test_error_is_at_most_half_a_step(bits):
    x = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(bits))
    q, scale = quantize_rows(x, bits)
    assert qmax(bits) == 2 ** (bits - 1) - 1
    assert q.abs().max() == qmax(bits)
    torch.testing.assert_close(scale, x.abs().amax(-1, keepdim=True) / qmax(bits))
    assert ((dequantize(q, scale) - x).abs() <= scale * 0.5001).all()


@pytest.mark.parametrize("clip", [None, torch.tensor([0.5, 0.5])])
def test_rows_of_zeros_and_subnormals_come_back_as_zeros(clip):
    x = torch.zeros(3, 8)
    x[1] = 1e-45
    x[2, 0] = 1.0
    q, scale = quantize_rows(x, 8, clip)
    back = dequantize(q, scale)
    assert (back[:2] == 0).all()
    assert back.isfinite().all()
    assert back[2, 0] > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_arithmetic_is_float32_whatever_the_input(dtype):
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0)).to(dtype)
    for got, expected in zip(quantize_rows(x, 8), quantize_rows(x.float(), 8), strict=True):
        assert torch.equal(got, expected)
    assert torch.equal(quantize_weight(x, 4)[0], quantize_weight(x.float(), 4)[0])


def in_float64(x, high, low, bits, asymmetric):
    """The integers less their zero point and the scale that the documented formulas give."""
    x, high, low = (value.double().numpy() for value in (x, high, low))
    if not asymmetric:
        top = 2 ** (bits - 1) - 1
        scale = np.maximum(high, -low) / top
        return np.clip(np.round(x / scale), -top - 1, top), scale
    levels = 2**bits - 1
    scale = (high - low) / levels
    zero = np.round(-low / scale)
    return np.clip(np.round(x / scale) + zero, 0, levels) - zero, scale


@pytest.mark.parametrize(
    ("bits", "asymmetric"), [(bits, asymmetric) for bits in range(2, 9) for asymmetric in (False, True)][:-1]
)
def test_ranges_follow_their_formula(bits, asymmetric):
    x = 0.7 + torch.randn(40, 64, generator=torch.Generator().manual_seed(bits))
    x[:, 0] = 0
    high, low = row_ranges(x * 0.8)  # so that some numbers lie outside
    q, scale = quantize_ranges(x, high, low, bits, asymmetric)
    expected, step = in_float64(x, high, low, bits, asymmetric)
    assert q.dtype == torch.int8
    np.testing.assert_allclose(scale.double().numpy(), step, rtol=1e-6)
    # Numbers halfway between two integers may go either way in float32, in rare cases.
    off = np.abs(q.double().numpy() - expected)
    assert off.max() <= 1
    assert (off > 0).mean() < 1e-3
    inside = (x <= high) & (x >= low)
    assert 0.5 < inside.float().mean() < 1
    assert ((dequantize(q, scale) - x).abs() <= scale * 0.5001)[inside].all()
    assert (q[:, 0] == 0).all()


def test_asymmetric_halves_the_step_of_one_sided_rows():
    x = torch.rand(20, 64, generator=torch.Generator().manual_seed(0))
    high, low = row_ranges(x)
    wide, fine = (quantize_ranges(x, high, low, 4, asymmetric)[1] for asymmetric in (False, True))
    torch.testing.assert_close(fine / wide, torch.full_like(fine, 7 / 15))


@pytest.mark.parametrize("asymmetric", [False, True])
def test_ranges_may_be_shared_and_rows_of_zeros_stay_zeros(asymmetric):
    x = torch.randn(3, 5, 16, generator=torch.Generator().manual_seed(1))
    q, scale = quantize_ranges(x, x.max(), x.min(), 6, asymmetric)
    assert scale.shape == (3, 5, 1)
    assert (scale == scale[0, 0]).all()
    assert ((dequantize(q, scale) - x).abs() <= scale * 0.5001).all()
    zeros = torch.zeros(2, 8)
    q, scale = quantize_ranges(zeros, *row_ranges(zeros), 6, asymmetric)
    assert (q == 0).all()
    assert (scale == 1).all()
