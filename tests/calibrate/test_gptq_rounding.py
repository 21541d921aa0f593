"""GPTQ's rounding against the algorithm as the paper writes it, brute force, and the nearest rounding it must beat."""

import itertools

import pytest
import torch
from torch import Tensor

from quantvggt.calibrate.gptq_rounding import gptq_round
from quantvggt.core.affine import quantize_rows
from quantvggt.core.rounding import absmax_scale


def problem(n: int, k: int, tokens: int = 400, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A weight and the Hessian of correlated inputs, a few channels of them large."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, k, generator=generator, dtype=torch.float64)
    x = x @ torch.randn(k, k, generator=generator, dtype=torch.float64) * (1 + 5 * (torch.arange(k) % 7 == 0))
    return torch.randn(n, k, generator=generator), x.t() @ x


def cost(weight: Tensor, hessian: Tensor, q: Tensor, scale: Tensor) -> Tensor:
    error = q.double() * scale.double() - weight.double()
    return ((error @ hessian) * error).sum(1)


def as_in_the_paper(weight: Tensor, hessian: Tensor, scale: Tensor, bits: int, order: Tensor) -> Tensor:
    """Optimal brain quantization in a fixed order: round a weight, let all remaining ones make up for it."""
    top = 2 ** (bits - 1) - 1
    w, scale, q = weight.double().clone(), scale.double()[:, 0], torch.zeros(weight.shape, dtype=torch.int8)
    damped = hessian + 0.01 * hessian.diagonal().mean() * torch.eye(len(hessian))
    left = order.tolist()
    while left:
        inverse = torch.linalg.inv(damped[left][:, left])
        j = left[0]
        q[:, j] = (w[:, j] / scale).round().clamp(-top - 1, top)
        error = (w[:, j] - q[:, j] * scale) / inverse[0, 0]
        w[:, left] -= error[:, None] * inverse[0]
        left = left[1:]
    return q


@pytest.mark.parametrize("act_order", [False, True])
@pytest.mark.parametrize("block_size", [1, 7, 128])
def test_it_is_the_papers_algorithm(act_order: bool, block_size: int) -> None:
    weight, hessian = problem(12, 40)
    q, scale = gptq_round(weight, hessian, 4, act_order=act_order, block_size=block_size)
    order = hessian.diagonal().argsort(descending=True) if act_order else torch.arange(40)
    assert q.tolist() == as_in_the_paper(weight, hessian, scale, 4, order).tolist()


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_it_beats_rounding_to_nearest_where_channels_correlate(bits: int) -> None:
    weight, hessian = problem(32, 96)
    nearest, scale = quantize_rows(weight, bits)
    for act_order in (False, True):
        q, same = gptq_round(weight, hessian, bits, act_order=act_order)
        torch.testing.assert_close(same, scale, rtol=0, atol=0)
        assert q.min() >= -(2 ** (bits - 1))
        assert q.max() < 2 ** (bits - 1)
        assert cost(weight, hessian, q, scale).sum() < 0.6 * cost(weight, hessian, nearest, scale).sum()


def test_without_correlation_it_is_rounding_to_nearest() -> None:
    weight, hessian = problem(16, 64)
    for diagonal in (hessian.diagonal().diag(), torch.zeros(64, 64)):
        for act_order in (False, True):
            q, scale = gptq_round(weight, diagonal, 4, act_order=act_order)
            assert q.tolist() == quantize_rows(weight, 4)[0].tolist()
            assert scale.tolist() == quantize_rows(weight, 4)[1].tolist()


def test_it_comes_close_to_the_best_of_all_roundings() -> None:
    k, bits = 6, 3
    weight, hessian = problem(40, k, tokens=60)
    scale = absmax_scale(weight, bits)
    floor = (weight / scale).floor()
    choices = [floor + torch.tensor(up) for up in itertools.product((-1.0, 0.0, 1.0, 2.0), repeat=k)]
    every = torch.stack([cost(weight, hessian, q.clamp(-4, 3), scale) for q in choices])
    best, nearest = every.amin(0).sum(), cost(weight, hessian, quantize_rows(weight, bits)[0], scale).sum()
    found = cost(weight, hessian, gptq_round(weight, hessian, bits, act_order=True)[0], scale).sum()
    assert best <= found <= best + 0.35 * (nearest - best)


def test_a_given_scale_is_kept_and_two_runs_agree() -> None:
    weight, hessian = problem(8, 200)
    scale = 0.7 * absmax_scale(weight, 4)
    first, second = (gptq_round(weight, hessian.float(), 4, scale, act_order=True) for _ in range(2))
    assert first[0].tolist() == second[0].tolist()
    assert first[1].tolist() == scale.tolist()
    assert first[0].abs().max() >= 7
