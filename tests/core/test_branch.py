"""What goes beside the few bits: the product stays, whatever is rounded."""

import pytest
import torch
from torch import Tensor

from quantvggt.core.branch import Branch
from quantvggt.core.rotation import random_signs, rotate
from quantvggt.core.transform import Transform
from quantvggt.kernels.reference import project

K, N, R = 80, 24, 16


def directions(seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(K, R, generator=generator))[0]


def numbers(rows: int, seed: int) -> Tensor:
    return torch.randn(rows, K, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("fine", [None, torch.ones(R, dtype=torch.bool), torch.arange(R) > 5])
def test_what_is_taken_out_is_what_the_branch_puts_back(fine: Tensor | None) -> None:
    x, weight = numbers(30, 1) + 20 * numbers(30, 2) @ directions() @ directions().t(), numbers(N, 3)
    branch, left = Branch.split(directions(), weight, fine)
    z, z_scale, part = project(x, branch.basis, branch.basis_scale)
    assert z.abs().max() == 127
    put_back = (z * z_scale).double() @ (weight.double() @ branch.directions.double()).t()
    together = (x - part).double() @ weight.double().t() + put_back
    torch.testing.assert_close(together, x.double() @ weight.double().t(), rtol=1e-4, atol=1e-3)
    # And what is left is what lies in no direction of the branch, but for roundings.
    exact = x - x @ directions() @ directions().t()
    without = (x - part).double() @ left.double().t() + (z * z_scale).double() @ (
        branch.weight * branch.scale
    ).t().double()
    assert (without - x.double() @ weight.double().t()).norm() < 0.01 * (x @ weight.t()).norm()
    assert (x - part - exact).norm() < 0.15 * exact.norm() < 0.15 * x.norm()


def test_eight_bits_of_directions_and_weights() -> None:
    weight = numbers(N, 3)
    branch, left = Branch.split(directions(), weight, torch.ones(R, dtype=torch.bool))
    assert (left @ directions()).norm() < 0.05 * (weight @ directions()).norm()
    assert (branch.basis.shape, branch.weight.shape, branch.scale.shape) == ((K, R), (N, R), (N, 1))
    some, part = Branch.split(directions(), weight, torch.arange(R) > 5)
    assert (part @ directions()[:, 6:]).norm() < 0.05 * (weight @ directions()[:, 6:]).norm()
    assert ((part - weight) @ directions()[:, :6]).norm() < 0.05 * (weight @ directions()[:, :6]).norm()
    assert torch.equal(some.basis, branch.basis)
    assert torch.equal(Branch.split(directions(), weight)[1], weight)
    torch.testing.assert_close(branch.directions, directions(), rtol=0, atol=directions().abs().max() / 253)
    torch.testing.assert_close(branch.weight * branch.scale, weight @ directions(), rtol=0.02, atol=0.1)


@pytest.mark.parametrize("smooth", [None, torch.linspace(0.5, 2, K)])
def test_the_one_matrix_that_does_the_same(smooth: Tensor | None) -> None:
    transform = Transform(signs=random_signs(K, 5), smooth=smooth)
    (branch, _), narrow = Branch.split(directions(), numbers(N, 3)), numbers(N, 4)
    x = numbers(30, 1)
    z = x @ branch.directions
    left = transform.apply(x - z @ branch.directions.t())
    expected = left @ narrow.t() + z @ (branch.weight * branch.scale).t()
    torch.testing.assert_close(
        transform.apply(x) @ branch.together(narrow, transform).t(), expected, rtol=1e-4, atol=1e-3
    )
    assert (rotate(x, random_signs(K, 5)).norm() - x.norm()).abs() < 1e-3
