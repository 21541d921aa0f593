"""Searched scales against brute force in float64."""

import pytest
import torch
from torch import Tensor

from quantvggt.core.affine import dequantize, quantize_rows
from quantvggt.core.chunks import cached_rows
from quantvggt.core.rounding import absmax_scale, least_error, mse_scale, nearest_round, rounding_error


def test_rounding_on_the_largest_scale_is_that_of_rows() -> None:
    weight = torch.randn(5, 40, generator=torch.Generator().manual_seed(0))
    weight[2] = 0
    q, scale = quantize_rows(weight, 4)
    assert torch.equal(absmax_scale(weight, 4), scale)
    assert torch.equal(nearest_round(weight, 4, scale), q)
    expected = (dequantize(q, scale) - weight).double().abs()
    for norm in (2.0, 2.4):
        torch.testing.assert_close(rounding_error(weight, 4, scale, norm).double(), expected**norm)


def test_the_least_error_wins_for_each_number_and_the_first_of_equals() -> None:
    candidates = [torch.tensor([[1.0], [1.0], [1.0]]), torch.tensor([[2.0], [3.0], [4.0]])]
    errors = {1.0: torch.tensor([[5.0], [5.0], [torch.inf]]), 2.0: torch.tensor([[4.0], [5.0], [1e30]])}

    def error(candidate: Tensor) -> Tensor:
        return errors[candidate[0].item()]

    assert least_error(candidates, error).tolist() == [[2.0], [1.0], [4.0]]
    whole = least_error(iter(candidates), lambda candidate: errors[candidate[0].item()][0].sum())
    assert whole.tolist() == [[2.0], [3.0], [4.0]]


def test_the_searched_scale_is_the_best_of_the_grid() -> None:
    weight = torch.randn(5, 300, generator=torch.Generator().manual_seed(1))
    weight[1, 0] = 20.0
    found = mse_scale(weight, 3)

    def loss(row: int, scale: float) -> float:
        x = weight[row].double()
        q = (x / scale).round().clamp(-4, 3)
        return float((q * scale - x).abs().pow(2.4).sum())

    for row in range(5):
        full = float(weight[row].abs().max() / 3)
        grid = [full * p / 100 for p in range(100, 20, -1)]
        assert loss(row, float(found[row])) == pytest.approx(min(loss(row, s) for s in grid), rel=1e-5)
    assert dequantize(torch.ones(5, 1), found).shape == (5, 1)


def test_scales_of_many_rows_are_searched_part_by_part() -> None:
    weight = torch.randn(2000, 300, generator=torch.Generator().manual_seed(1))
    assert cached_rows(weight) < 1000
    torch.testing.assert_close(mse_scale(weight, 3), torch.cat([mse_scale(row[None], 3) for row in weight]))
