"""Every native path gives the reference's integers and scales, bit for bit."""

import pytest
import torch

from quantvggt.core.errors import InputError
from quantvggt.core.rotation import random_signs
from quantvggt.kernels import reference
from quantvggt.kernels.ops import rotate_quantize

# d = 2^n below, at and above the width of a vector, and 2^n times 12, 20 and 28.
ROTATED = [1, 2, 8, 16, 64, 1024, 4096, 12, 24, 48, 192, 768, 20, 28 * 16]
FLOATS = [torch.float32, torch.bfloat16, torch.float16]


def _inputs(shape, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    x = (torch.randn(shape, generator=g) * 3).to(dtype)
    return x, random_signs(shape[-1], 1), 0.5 + torch.rand(shape[-1], generator=g), torch.tensor([0.8, 0.6])


def _compare(same_bits, *args):
    for got, expected in zip(rotate_quantize(*args), reference.rotate_quantize(*args), strict=True):
        same_bits(got, expected)


@pytest.mark.parametrize("d", ROTATED)
def test_rotated_rows(cpu_path, threads, same_bits, d):
    for dtype in FLOATS:
        x, signs, smooth, clip = _inputs((3, 17, d), dtype)
        for options in ((signs, None, None), (signs, smooth, None), (signs, smooth, clip)):
            _compare(same_bits, x, *options, 8)


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_width(cpu_path, same_bits, bits):
    x, signs, smooth, clip = _inputs((40, 256))
    for options in ((signs, smooth, clip), (signs, None, None), (None, smooth, None), (None, None, clip)):
        _compare(same_bits, x, *options, bits)


@pytest.mark.parametrize("d", [1, 3, 15, 17, 100, 1023])
def test_rows_of_any_length_without_rotation(cpu_path, same_bits, d):
    for dtype in FLOATS:
        x, _, smooth, clip = _inputs((2, 5, d), dtype)
        for options in ((None, None, None), (None, smooth, clip)):
            _compare(same_bits, x, *options, 8)


def test_every_half_and_bfloat16_is_read_right(cpu_path, same_bits):
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32).to(torch.int16).view(dtype)
        x = x[x.isfinite()][:, None]
        _compare(same_bits, x, None, None, None, 8)


def test_ties_round_to_even(cpu_path):
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5, -126.5]])
    q, scale = rotate_quantize(x, None, None, None, 8)
    assert scale.item() == 1
    assert q.tolist() == [[127, 0, 2, 2, 0, -2, -2, 126, -126]]


@pytest.mark.parametrize("rotated", [False, True])
def test_zero_tiny_and_huge_rows(cpu_path, same_bits, rotated):
    base, signs, smooth, clip = _inputs((8, 64))
    factors = torch.tensor([0.0, -0.0, 1e-45, 1e-40, 1e-30, 1e30, 1e35, 1e37])
    x = base.clamp(-1, 1) * factors[:, None]
    x[1, 5] = 1.0
    for options in ((smooth, clip), (None, None)):
        _compare(same_bits, x, signs if rotated else None, *options, 8)
        _compare(same_bits, x.abs(), signs if rotated else None, *options, 8)
        _compare(same_bits, -x.abs(), signs if rotated else None, *options, 8)


def test_rows_with_infinities_and_nans_get_the_same_scale(cpu_path):
    x = torch.ones(4, 40)
    x[0, 3], x[1, 3], x[2, 39], x[3, 0] = torch.inf, -torch.inf, torch.nan, -torch.nan
    got, expected = rotate_quantize(x, None, None, None, 8)[1], reference.rotate_quantize(x, None, None, None, 8)[1]
    assert torch.equal(got, expected)


def test_what_it_is_not_made_for_goes_to_the_reference(cpu_path, same_bits):
    x, signs, smooth, clip = _inputs((4, 64))
    _compare(same_bits, x.double(), signs, smooth, clip, 8)
    _compare(same_bits, x, signs, smooth.double(), clip, 8)
    _compare(same_bits, x[:0], signs, smooth, clip, 8)
    _compare(same_bits, x.t().contiguous().t(), signs, smooth, clip, 8)
    with pytest.raises(InputError, match="no Hadamard rotation for 100 channels"):
        rotate_quantize(torch.ones(2, 100), torch.ones(100, dtype=torch.int8), None, None, 8)
    with pytest.raises(ValueError, match="smooth has 63 values; 64 are needed"):
        rotate_quantize(x, signs, smooth[:63], None, 8)


def test_opcheck(cpu_path):
    x, *options = _inputs((2, 3, 64), torch.bfloat16)
    torch.library.opcheck(rotate_quantize, (x, *options, 4))
    torch.library.opcheck(rotate_quantize, (x, None, None, None, 8))
