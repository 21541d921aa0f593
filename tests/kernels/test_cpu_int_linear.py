"""Every native path gives the reference's output, bit for bit."""

import pytest
import torch

import definition
from quantvggt.core.errors import InputError
from quantvggt.core.packing import pack_int4
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.kernels import registry
from quantvggt.kernels.contract import MOST_CHANNELS, RANKS
from quantvggt.kernels.ops import int_linear
from quantvggt.nn.quant_linear import QuantLinear

# (M, K, N): one row, whole tiles and ragged ones, K below and beyond a chunk and no multiple of a step.
SHAPES = [
    (1, 64, 16),
    (1, 1, 1),
    (13, 100, 33),
    (29, 7, 1),
    (12, 256, 32),
    (50, 1024, 100),
    (250, 263, 70),
    (7, 4096, 9),
]
OUTPUTS = [torch.float32, torch.bfloat16, torch.float16]


def _inputs(m, k, n, weight_bits=8, act_bits=8):
    g = torch.Generator().manual_seed(m + k + n)
    half, w_half = 1 << (act_bits - 1), 1 << (weight_bits - 1)
    q = torch.randint(-half, half, (m, k), dtype=torch.int8, generator=g)
    weight = torch.randint(-w_half, w_half, (n, k), dtype=torch.int8, generator=g)
    scales = [torch.rand(rows, 1, generator=g) * 0.01 for rows in (m, n)]
    if weight_bits <= 4:
        weight = pack_int4(weight)
    return q, scales[0], weight, scales[1], torch.randn(n, generator=g)


def _compare(same_bits, *args):
    same_bits(int_linear(*args), definition.int_linear(*args))


@pytest.mark.parametrize("weight_bits", [4, 8])
@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_and_outputs(cpu_path, threads, same_bits, shape, weight_bits):
    *tensors, bias = _inputs(*shape, weight_bits)
    for dtype in OUTPUTS:
        _compare(same_bits, *tensors, bias, dtype)
        _compare(same_bits, *tensors, None, dtype)


@pytest.mark.parametrize("n", [1, 33, 40, 48, 80, 96, 160])
def test_rows_that_end_within_a_cache_line_and_with_one(cpu_path, threads, same_bits, n):
    # Some paths write whole 64-byte lines past the caches: of all, of 4-byte numbers only, or of none of these rows.
    q, row_scale, weight, weight_scale, bias = _inputs(45, 64, n)
    residual = torch.randn(45, n, generator=torch.Generator().manual_seed(0))
    for dtype in OUTPUTS:
        _compare(same_bits, q, row_scale, weight, weight_scale, bias, dtype)
        args = q, row_scale, weight, weight_scale, bias, dtype
        steps = {"gain": bias, "residual": residual.to(dtype)}
        same_bits(int_linear(*args, **steps), definition.int_linear(*args, **steps))


@pytest.mark.parametrize("weight_bits", range(2, 9))
@pytest.mark.parametrize("act_bits", [2, 3, 4, 6, 8])
def test_every_width(cpu_path, same_bits, weight_bits, act_bits):
    _compare(same_bits, *_inputs(31, 96, 40, weight_bits, act_bits), torch.float32)


@pytest.mark.parametrize("weight_bits", [4, 8])
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("shape", [(1, 64, 16), (13, 100, 33), (250, 263, 70)])
def test_low_rank_branch(cpu_path, threads, same_bits, shape, rank, weight_bits):
    q, row_scale, weight, weight_scale, bias = _inputs(*shape, weight_bits)
    z, z_scale, branch, branch_scale, gain = _inputs(shape[0], rank, shape[2])
    args = torch.cat((q, z), 1), torch.cat((row_scale, z_scale), 1), weight, weight_scale
    low_rank = {"branch": branch, "branch_scale": branch_scale}
    residual = torch.randn(shape[0], shape[2], generator=torch.Generator().manual_seed(0))
    for dtype in OUTPUTS:
        for given in (None, bias):
            same_bits(
                int_linear(*args, given, dtype, **low_rank), definition.int_linear(*args, given, dtype, **low_rank)
            )
        steps = {"gain": gain, "residual": residual.to(dtype), **low_rank}
        same_bits(int_linear(*args, bias, dtype, **steps), definition.int_linear(*args, bias, dtype, **steps))
    got = int_linear(*args, bias, torch.float32, gelu=True, **steps)
    expected = definition.int_linear(*args, bias, torch.float32, gelu=True, **steps)
    torch.testing.assert_close(got, expected, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize(("left", "right"), [(-128, -128), (-128, 127), (127, 127), (127, -128)])
def test_extreme_sums_neither_saturate_nor_round(cpu_path, left, right):
    # Beyond 2^24 only the exact integer tells neighbours apart: one product differs by one.
    k = 4096
    q, weight = torch.full((14, k), left, dtype=torch.int8), torch.full((33, k), right, dtype=torch.int8)
    q[:, -1], weight[:, -1] = 1, torch.arange(33, dtype=torch.int8)
    y = int_linear(q, torch.ones(14, 1), weight, torch.ones(33, 1), None, torch.float32)
    total = (k - 1) * left * right + torch.arange(33)
    assert torch.equal(y, total.float().expand(14, 33))


@pytest.mark.parametrize(("left", "right"), [(-128, -128), (-128, 127), (127, 127)])
def test_as_many_channels_as_32_bits_can_sum(cpu_path, left, right):
    q, weight = (torch.full((2, MOST_CHANNELS), value, dtype=torch.int8) for value in (left, right))
    scale = torch.ones(2)
    y = int_linear(q, scale, weight, scale, None, torch.float32)
    assert (y.double() == float(torch.tensor(left * right * MOST_CHANNELS).float())).all()
    q, weight = (torch.cat((side, side[:, :1]), 1) for side in (q, weight))
    with pytest.raises(InputError, match=r"q is .* with K from 1 to 131071 channels, not \[2, 131072\]"):
        int_linear(q, scale, weight, scale, None, torch.float32)


def test_blocks_of_a_large_product(cpu_path, threads, same_bits):
    # Long rows in small numbers, so that rows and columns are both split into blocks.
    _compare(same_bits, *_inputs(331, 6000, 130, 4), torch.bfloat16)


def test_outputs_round_to_even_and_overflow_to_infinity(cpu_path, same_bits):
    q = torch.arange(-128, 128, dtype=torch.int16).to(torch.int8).repeat(8)[:, None]
    row_scale = torch.tensor([1e-44, 1e-40, 1e-7, 1.0, 256.5, 512.0, 1e30, 1e36]).repeat_interleave(256)[:, None]
    weight = torch.tensor([[1], [127], [-128]], dtype=torch.int8)
    weight_scale = torch.tensor([[1.0], [1.00390625], [3.0]])
    for dtype in OUTPUTS:
        _compare(same_bits, q, row_scale, weight, weight_scale, torch.tensor([0.0, 0.5, -1.0]), dtype)
        _compare(same_bits, q, row_scale, weight, weight_scale, None, dtype)


def test_what_it_is_not_made_for_goes_to_the_reference(cpu_path, same_bits):
    q, row_scale, weight, weight_scale, bias = _inputs(5, 64, 24)
    _compare(same_bits, q, row_scale, weight, weight_scale, bias, torch.float64)
    _compare(same_bits, q, row_scale, weight, weight_scale, bias.double(), torch.float32)
    _compare(same_bits, q, row_scale, weight, weight_scale, bias.half(), torch.float32)
    _compare(same_bits, q[:0], row_scale[:0], weight, weight_scale, bias, torch.float32)
    q, weight = q.t().contiguous().t(), weight.t().contiguous().t()
    _compare(same_bits, q, row_scale, weight, weight_scale, bias, torch.float32)


def test_sizes_that_do_not_fit_are_refused(cpu_path):
    q, row_scale, weight, weight_scale, bias = _inputs(5, 64, 24)
    for wrong in (weight[:, :63], pack_int4(weight.clamp(-8, 7))[:, :7], weight.float(), weight[0]):
        with pytest.raises(InputError, match=r"weight (for 64 channels is int8|is int8 or int32)"):
            int_linear(q, row_scale, wrong, weight_scale, bias, torch.float32)
    with pytest.raises(InputError, match="bias has 23 values; 24 are needed"):
        int_linear(q, row_scale, weight, weight_scale, bias[:23], torch.float32)
    with pytest.raises(InputError, match="row_scale has 4 values; 5 are needed"):
        int_linear(q, row_scale[:4], weight, weight_scale, bias, torch.float32)


def test_opcheck(cpu_path):
    for weight_bits in (4, 8):
        *tensors, bias = _inputs(6, 64, 24, weight_bits)
        torch.library.opcheck(torch.ops.quantvggt.int_linear.default, (*tensors, bias, torch.bfloat16))
        torch.library.opcheck(torch.ops.quantvggt.int_linear.default, (*tensors, None, torch.float32))


@pytest.mark.parametrize("scheme", ["w8a8", "w4a4", "w4a8", "w3a3", "w6a6"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_quantized_layer_gives_the_same_on_every_path(cpu_path, same_bits, monkeypatch, scheme, dtype):
    torch.manual_seed(0)
    layer = QuantLinear.from_float(
        torch.nn.Linear(192, 50), Scheme.preset(scheme), Transform(smooth=torch.rand(192) + 0.5)
    )
    x = torch.randn(2, 9, 192).to(dtype)
    got = layer(x)
    monkeypatch.setattr(registry, "_forced", "reference")
    same_bits(got, layer(x))
