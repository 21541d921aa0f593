import pytest
import torch

import definition
from quantvggt.core.packing import pack_int4
from quantvggt.kernels.contract import RANKS
from quantvggt.kernels.ops import int_linear

# One token; rows, columns and channels that fill no tile, few rows and many.
SHAPES = [(1, 64, 32), (1, 33, 5), (3, 1, 1), (37, 70, 129), (70, 130, 40), (65, 256, 300), (130, 64, 128)]
FLOATS = [torch.float32, torch.float16, torch.bfloat16]


def inputs(generator, m, k, n, packed):
    q = torch.randint(-128, 128, (m, k), dtype=torch.int8, generator=generator)
    weight = torch.randint(-8, 8, (n, k), dtype=torch.int8, generator=generator) * (1 if packed else 16)
    row_scale, weight_scale = (torch.rand(rows, 1, generator=generator) / 64 for rows in (m, n))
    return q, row_scale, pack_int4(weight) if packed else weight, weight_scale


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("m", "k", "n"), SHAPES)
def test_sums_are_exact_and_everything_but_gelu_has_the_bits_of_the_reference(generator, same_bits, m, k, n, packed):
    args = inputs(generator, m, k, n, packed)
    bias, gain = torch.randn(n, generator=generator), torch.rand(n, generator=generator)
    residual = torch.randn(m, n, generator=generator)
    for bias_, gain_, residual_ in ((None, None, None), (bias, None, None), (bias, gain, residual)):
        for dtype in FLOATS[:2]:
            rest = bias_, dtype, False, gain_, residual_
            same_bits(int_linear(*args, *rest), definition.int_linear(*args, *rest))


@pytest.mark.parametrize("packed", [False, True])
def test_bfloat16_is_a_neighbour_of_the_exact_value(generator, packed):
    """Triton's interpreter cuts bfloat16 off where GPUs round it: test_compile.py sees to that."""
    args = inputs(generator, 37, 70, 129, packed)
    got = int_linear(*args, None, torch.bfloat16)
    exact = definition.int_linear(*args, None, torch.float32)
    assert got.dtype == torch.bfloat16
    assert ((got.float() - exact).abs() <= 2**-7 * exact.abs()).all()


@pytest.mark.parametrize("kind", FLOATS)
def test_residuals_of_every_type(generator, same_bits, kind):
    args = inputs(generator, 5, 64, 40, False)
    rest = None, torch.float32, False, None, torch.randn(5, 40, generator=generator).to(kind)
    same_bits(int_linear(*args, *rest), definition.int_linear(*args, *rest))


def test_gelu_is_the_exact_one(generator):
    args = inputs(generator, 40, 64, 70, False)
    bias = torch.randn(70, generator=generator)
    before = definition.int_linear(*args, bias, torch.float64)
    got = int_linear(*args, bias, torch.float32, True)
    assert ((got - torch.nn.functional.gelu(before)).abs() <= 3e-7 * before.abs().clamp(min=1)).all()


@pytest.mark.parametrize("packed", [False, True])
def test_the_largest_sums_fit(packed):
    k = 4096
    q = torch.full((2, k), -128, dtype=torch.int8)
    low = torch.full((3, k), -8 if packed else -128, dtype=torch.int8)
    one = torch.ones(3, 1)
    y = int_linear(q, one[:2], pack_int4(low) if packed else low, one, None, torch.float32)
    assert (y == 128.0 * k * (8 if packed else 128)).all()


def test_leading_dimensions_stay(generator):
    q, row_scale, weight, weight_scale = inputs(generator, 6, 64, 40, False)
    y = int_linear(q.view(2, 3, 64), row_scale.view(2, 3, 1), weight, weight_scale, None, torch.float32)
    assert torch.equal(y.view(6, 40), definition.int_linear(q, row_scale, weight, weight_scale, None, torch.float32))


def with_branch(generator, m, k, n, packed, rank):
    """As `inputs`, with a branch beside: the arguments by name."""
    q, row_scale, weight, weight_scale = inputs(generator, m, k, n, packed)
    z, branch = (torch.randint(-128, 128, (rows, rank), dtype=torch.int8, generator=generator) for rows in (m, n))
    z_scale, branch_scale = (torch.rand(rows, 1, generator=generator) / 64 for rows in (m, n))
    return {
        "q": torch.cat((q, z), -1),
        "row_scale": torch.cat((row_scale, z_scale), -1),
        "weight": weight,
        "weight_scale": weight_scale,
        "bias": torch.randn(n, generator=generator),
        "branch": branch,
        "branch_scale": branch_scale,
    }


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize(("m", "k", "n"), [(1, 64, 33), (37, 80, 129), (70, 96, 40)])
def test_a_branch_has_the_bits_of_the_reference(generator, same_bits, m, k, n, rank, packed):
    args = with_branch(generator, m, k, n, packed, rank) | {"out_dtype": torch.float32}
    same_bits(int_linear(**args), definition.int_linear(**args))


@pytest.mark.parametrize("rank", [16, 32])
def test_what_follows_a_branch_is_as_without(generator, same_bits, rank):
    m, k, n = 37, 256, 130
    args = with_branch(generator, m, k, n, True, rank)
    after = {"gain": torch.rand(n, generator=generator), "residual": torch.randn(m, n, generator=generator)}
    rounded = args | after | {"out_dtype": torch.float16}
    same_bits(int_linear(**rounded), definition.int_linear(**rounded))
    before = definition.int_linear(**args, out_dtype=torch.float64)
    exact = torch.nn.functional.gelu(before) * after["gain"].double() + after["residual"].double()
    got = int_linear(**args, **after, out_dtype=torch.float32, gelu=True)
    assert ((got - exact).abs() <= 4e-7 * (before.abs() + exact.abs()).clamp(min=1)).all()


def test_the_largest_sums_of_a_branch_fit():
    low = torch.full((3, 256 + 64), -128, dtype=torch.int8)
    one = torch.ones(3, 1)
    y = int_linear(low, one.expand(3, 2), low[:, :256], one, None, torch.float32, branch=low[:, :64], branch_scale=one)
    assert (y == 128.0 * 128 * (256 + 64)).all()
