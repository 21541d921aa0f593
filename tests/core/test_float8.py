import pytest
import torch

from quantvggt.core.affine import dequantize
from quantvggt.core.float8 import FLOAT8, MOST, is_number, quantize_float8

EVERY = torch.arange(256, dtype=torch.uint8).view(FLOAT8)


def _grid() -> torch.Tensor:
    """Every number of the format by its formula, float64: (-1)^s 2^(e - 7) (1 + m / 8), subnormals 2^-6 m / 8."""
    numbers = []
    for code in range(256):
        sign, exponent, fraction = -1 if code & 128 else 1, code >> 3 & 15, code & 7
        if code & 127 != 127:
            size = 2.0 ** (exponent - 7) * (1 + fraction / 8) if exponent else 2.0**-6 * fraction / 8
            numbers.append(sign * size)
    return torch.tensor(numbers, dtype=torch.float64)


def test_the_format_is_what_its_formula_says() -> None:
    assert torch.equal(EVERY.double()[is_number(EVERY)], _grid())
    assert (~is_number(EVERY)).nonzero().flatten().tolist() == [127, 255]
    assert _grid().max() == MOST


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rows_go_to_the_nearest_numbers(dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    x = (torch.randn(3, 5, 200, generator=generator, dtype=torch.float64) * 10 ** torch.linspace(-6, 6, 200)).to(dtype)
    q, scale = quantize_float8(x)
    assert (q.dtype, q.shape, scale.dtype, scale.shape) == (FLOAT8, x.shape, torch.float32, (3, 5, 1))
    exact = x.double()
    torch.testing.assert_close(scale.double(), exact.abs().amax(-1, keepdim=True) / 448, rtol=1e-6, atol=0)
    wanted = exact / scale.double()
    nearest = (wanted[..., None] - _grid()).abs().amin(-1)
    assert ((q.double() - wanted).abs() <= nearest + 1e-6 * wanted.abs()).all()


def test_the_largest_number_of_a_row_comes_back() -> None:
    x = torch.tensor([[3.0, -7.0, 0.0], [1e30, 1.0, -1e30], [1e-30, 0.0, 1e-31]])
    back = dequantize(*quantize_float8(x))
    torch.testing.assert_close(back.abs().amax(-1), x.abs().amax(-1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("largest", [0.0, 1e-45, 1e-40, 3.4e38])
def test_finite_rows_never_become_nan(largest) -> None:
    q, scale = quantize_float8(torch.tensor([[largest, -largest, largest / 3]]))
    assert is_number(q).all()
    assert scale.isfinite().all()
    assert (scale > 0).all()


@pytest.mark.parametrize("wrong", [torch.inf, -torch.inf, torch.nan])
def test_a_row_that_is_not_finite_stays_so_and_no_other(wrong) -> None:
    back = dequantize(*quantize_float8(torch.tensor([[1.0, wrong], [1.0, 2.0]])))
    assert back[0].isnan().any()
    torch.testing.assert_close(back[1], torch.tensor([1.0, 2.0]), rtol=1e-6, atol=0)


def test_no_rows() -> None:
    q, scale = quantize_float8(torch.empty(0, 4))
    assert (q.shape, scale.shape) == ((0, 4), (0, 1))
