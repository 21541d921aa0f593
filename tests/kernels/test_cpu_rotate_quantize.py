"""Every native path gives the reference's integers and scales, bit for bit."""

import pytest
import torch

import definition
from quantvggt.core.errors import InputError
from quantvggt.core.rotation import random_signs
from quantvggt.kernels.contract import RANKS
from quantvggt.kernels.ops import rotate_quantize

# d = 2^n below, at and above the width of a vector, and 2^n times 12, 20 and 28.
ROTATED = [1, 2, 8, 16, 64, 1024, 4096, 12, 24, 48, 192, 768, 20, 28 * 16]
FLOATS = [torch.float32, torch.bfloat16, torch.float16]


def _inputs(shape, dtype=torch.float32):
    g = torch.Generator().manual_seed(0)
    x = (torch.randn(shape, generator=g) * 3).to(dtype)
    return x, random_signs(shape[-1], 1), 0.5 + torch.rand(shape[-1], generator=g), torch.tensor([0.8, 0.6])


def _before(d):
    """shift and presmooth."""
    g = torch.Generator().manual_seed(2)
    return torch.randn(d, generator=g), 0.1 + torch.rand(d, generator=g)


def _compare(same_bits, *args, **options):
    got, expected = rotate_quantize(*args, **options), definition.rotate_quantize(*args, **options)
    for a, b in zip(got, expected, strict=True):
        same_bits(a, b)


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


@pytest.mark.parametrize("d", [1, 2, 17, 100, 192, 1023, 1024, 28 * 16])
def test_shift_and_presmooth(cpu_path, threads, same_bits, d):
    shift, presmooth = _before(d)
    for dtype in FLOATS:
        x, signs, smooth, clip = _inputs((3, 17, d), dtype)
        signs = signs if d in ROTATED else None
        for each in ({"shift": shift}, {"presmooth": presmooth}, {"shift": shift, "presmooth": presmooth}):
            _compare(same_bits, x, None, None, None, 8, **each)
            _compare(same_bits, x, signs, None, None, 4, **each)
            _compare(same_bits, x, signs, smooth, clip, 8, **each)


@pytest.mark.parametrize(("frame_tokens", "special_tokens"), [(1, 0), (1, 1), (17, 5), (51, 5), (3, 2), (17, 17)])
def test_special_tokens_have_their_own_width(cpu_path, threads, same_bits, frame_tokens, special_tokens):
    x, signs, smooth, clip = _inputs((3, 17, 192))
    shift, presmooth = _before(192)
    frames = {"frame_tokens": frame_tokens, "special_tokens": special_tokens}
    for bits, special_bits in ((4, 8), (8, 3), (3, 3)):
        for options in ((signs, smooth, clip), (None, None, None)):
            _compare(same_bits, x, *options, bits, special_bits=special_bits, **frames)
            _compare(same_bits, x, *options, bits, shift, presmooth, special_bits=special_bits, **frames)


@pytest.mark.parametrize("bits", range(2, 9))
def test_asymmetric_ranges(cpu_path, same_bits, bits):
    x, signs, smooth, clip = _inputs((3, 17, 192))
    x[0] = x[0].abs()
    x[1] = -x[1].abs()
    x[2, 3] = 0
    frames = {"frame_tokens": 17, "special_tokens": 5, "special_bits": 8}
    for options in ((None, None, None), (None, None, clip), (signs, smooth, clip)):
        _compare(same_bits, x, *options, bits, asymmetric=True)
        _compare(same_bits, x, *options, bits, asymmetric=True, **frames)
    q, scale = rotate_quantize(x, None, None, None, bits, asymmetric=True)
    assert (q * scale - x).abs().max() <= 1.01 * scale.max()
    assert q.amin() == (-(2**bits) + 1 if bits < 8 else -127)


def _basis(d, rank):
    g = torch.Generator().manual_seed(4)
    u = torch.randint(-128, 128, (d, rank), dtype=torch.int8, generator=g)
    return {"basis": u, "basis_scale": torch.tensor([1 / (74 * d**0.5)])}


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("d", [1, 64, 80, 96, 768, 1024])
def test_low_rank_branch(cpu_path, threads, same_bits, d, rank):
    shift, presmooth = _before(d)
    norm = {"norm_weight": presmooth, "norm_bias": shift}
    frames = {"frame_tokens": 37, "special_tokens": 5, "special_bits": 8}
    for dtype in FLOATS:
        x, signs, smooth, clip = _inputs((37, d), dtype)
        for rows in (x, x[:1]):
            _compare(same_bits, rows, signs, smooth, clip, 4, **_basis(d, rank), **norm)
        _compare(same_bits, x, None, None, None, 4, **_basis(d, rank))
        _compare(same_bits, x, signs, None, None, 4, shift, presmooth, asymmetric=True, **frames, **_basis(d, rank))


@pytest.mark.parametrize("rows", [*range(2, 14), 33, 65])
def test_low_rank_branch_of_any_number_of_rows(cpu_path, same_bits, rows):
    x, signs, smooth, clip = _inputs((rows, 64))
    for rank in RANKS:
        _compare(same_bits, x, signs, smooth, clip, 4, **_basis(64, rank))


def test_low_rank_branch_without_rotation_of_any_length(cpu_path, same_bits):
    for d in (2, 17, 100, 1023):
        _compare(same_bits, _inputs((29, d))[0], None, None, None, 4, **_basis(d, 16), norm_weight=_before(d)[1])


@pytest.mark.parametrize("sign", [-128, 127])
def test_low_rank_sums_neither_saturate_nor_round(cpu_path, same_bits, sign):
    x = torch.full((13, 4096), 127.0)
    x[:, -1] = torch.arange(13)
    basis = {"basis": torch.full((4096, 16), sign, dtype=torch.int8), "basis_scale": torch.tensor([1e-4])}
    basis["basis"][0] = torch.arange(16)
    _compare(same_bits, x, None, None, None, 4, **basis)


def test_low_rank_branch_of_zero_tiny_and_huge_rows(cpu_path, same_bits):
    base, signs, smooth, clip = _inputs((8, 64))
    factors = torch.tensor([0.0, -0.0, 1e-45, 1e-43, 1e-40, 1e-30, 1e30, 1e35])
    x = base.clamp(-1, 1) * factors[:, None]
    _compare(same_bits, x, signs, smooth, clip, 8, **_basis(64, 16))
    _compare(same_bits, base, signs, smooth, clip, 8, **{**_basis(64, 16), "basis": torch.zeros(64, 16).to(torch.int8)})


def test_low_rank_branch_keeps_other_rows_from_one_with_infinities_and_nans(cpu_path, same_bits):
    x, signs, smooth, clip = _inputs((40, 96))
    for bad in (torch.inf, -torch.inf, torch.nan):
        spoilt = x.clone()
        spoilt[7, 3] = bad
        got = rotate_quantize(spoilt, signs, smooth, clip, 4, **_basis(96, 32))
        expected = definition.rotate_quantize(x, signs, smooth, clip, 4, **_basis(96, 32))
        for a, b in zip(got, expected, strict=True):
            same_bits(torch.cat((a[:7], a[8:])), torch.cat((b[:7], b[8:])))


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
    got, expected = rotate_quantize(x, None, None, None, 8)[1], definition.rotate_quantize(x, None, None, None, 8)[1]
    assert torch.equal(got, expected)


def test_what_it_is_not_made_for_goes_to_the_reference(cpu_path, same_bits):
    x, signs, smooth, clip = _inputs((4, 64))
    _compare(same_bits, x.double(), signs, smooth, clip, 8)
    _compare(same_bits, x[:0], signs, smooth, clip, 8)
    for transposed in (x.t().contiguous().t(), x.double().t().contiguous().t()):
        _compare(same_bits, transposed, signs, smooth, clip, 4, frame_tokens=2, special_tokens=1)
    shift, presmooth = _before(64)
    _compare(same_bits, x[:0], signs, smooth, clip, 8, shift, presmooth, 3, 2, 4)
    with pytest.raises(InputError, match="no Hadamard rotation for 100 channels"):
        rotate_quantize(torch.ones(2, 100), torch.ones(100, dtype=torch.int8), None, None, 8)
    with pytest.raises(InputError, match="smooth has 63 values; 64 are needed"):
        rotate_quantize(x, signs, smooth[:63], None, 8)
    with pytest.raises(InputError, match="shift has 63 values; 64 are needed"):
        rotate_quantize(x, signs, None, None, 8, shift=shift[:63])
    with pytest.raises(InputError, match="presmooth has 1 values; 64 are needed"):
        rotate_quantize(x, signs, None, None, 8, presmooth=presmooth[:1])
    for frame_tokens in (3, 0, -4):
        with pytest.raises(InputError, match=f"4 tokens are no whole frames of {frame_tokens}"):
            rotate_quantize(x, signs, None, None, 8, frame_tokens=frame_tokens, special_tokens=1)


def test_opcheck(cpu_path):
    x, *options = _inputs((2, 3, 64), torch.bfloat16)
    torch.library.opcheck(torch.ops.quantvggt.rotate_quantize.default, (x, *options, 4))
    torch.library.opcheck(torch.ops.quantvggt.rotate_quantize.default, (x, *options, 4, *_before(64), 3, 2, 8))
    torch.library.opcheck(torch.ops.quantvggt.rotate_quantize.default, (x, None, None, None, 8))
