"""Every combination of a transform's parts leaves the product as it was, and computes what its formula says."""

from itertools import product

import pytest
import torch
from scipy.linalg import hadamard

from quantvggt.core.rotation import random_signs
from quantvggt.core.transform import Transform, kronecker

K, N, A = 32, 12, 4
PARTS = ("shift", "presmooth", "map", "signs", "smooth")


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _transform(parts: set[str]) -> Transform:
    values = {
        "shift": _random(K, seed=1),
        "presmooth": 0.5 + _random(K, seed=2).abs(),
        "signs": random_signs(K, 3),
        "smooth": 0.5 + _random(K, seed=4).abs(),
    }
    maps = {
        "left": torch.eye(A) + 0.2 * _random(A, A, seed=5),
        "right": torch.eye(K // A) + 0.2 * _random(K // A, K // A, seed=6),
    }
    return Transform(
        **{name: value for name, value in values.items() if name in parts}, **maps if "map" in parts else {}
    )


def _dense(transform: Transform) -> tuple[torch.Tensor, torch.Tensor]:
    """The matrices M and M^-T of X'' = (X - s) M and W'' = W M^-T, from the formula, in float64."""
    matrix = torch.eye(K, dtype=torch.float64)
    if transform.presmooth is not None:
        matrix = matrix / transform.presmooth.double()
    if transform.left is not None and transform.right is not None:
        matrix = matrix @ torch.kron(transform.left.double(), transform.right.double())
    if transform.signs is not None:
        matrix = matrix @ torch.diag(transform.signs.double()) @ torch.from_numpy(hadamard(K) / K**0.5)
    if transform.smooth is not None:
        matrix = matrix / transform.smooth.double()
    return matrix, torch.linalg.inv(matrix).t()


@pytest.mark.parametrize("flags", list(product((False, True), repeat=len(PARTS))))
def test_every_combination_follows_the_formula_and_keeps_the_product(flags: tuple[bool, ...]) -> None:
    transform = _transform({name for name, on in zip(PARTS, flags, strict=True) if on})
    x, weight, bias = 3 * _random(2, 7, K, seed=7), _random(N, K, seed=8), _random(N, seed=9)
    to_x, to_weight = _dense(transform)
    centred = x.double() - (0 if transform.shift is None else transform.shift.double())
    x2, weight2 = transform.apply(x), transform.apply_to_weight(weight)
    assert x2.dtype == weight2.dtype == torch.float32
    torch.testing.assert_close(x2.double(), centred @ to_x, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(weight2.double(), weight.double() @ to_weight, rtol=1e-5, atol=1e-5)
    bias2 = transform.apply_to_bias(weight, bias)
    assert bias2 is not None
    expected = x.double() @ weight.double().t() + bias.double()
    torch.testing.assert_close(x2.double() @ weight2.double().t() + bias2.double(), expected, rtol=1e-5, atol=1e-4)


def test_a_shift_needs_a_bias_even_where_there_was_none() -> None:
    weight = _random(N, K)
    assert _transform(set(PARTS) - {"shift"}).apply_to_bias(weight, None) is None
    shifted = _transform({"shift"})
    bias = shifted.apply_to_bias(weight, None)
    assert bias is not None
    assert shifted.shift is not None
    torch.testing.assert_close(bias.double(), weight.double() @ shifted.shift.double(), rtol=1e-5, atol=1e-5)


def test_kronecker_is_the_dense_product() -> None:
    x, left, right = _random(3, 5, 24).double(), _random(4, 4, seed=1).double(), _random(6, 6, seed=2).double()
    torch.testing.assert_close(kronecker(x, left, right), x @ torch.kron(left, right))


def test_all_parts_are_differentiable_until_detached() -> None:
    whole = _transform(set(PARTS))
    parts = {name: value.float().requires_grad_() for name, value in vars(whole).items() if name != "signs"}
    live = Transform(**parts, signs=whole.signs)
    bias = live.apply_to_bias(_random(N, K), None)
    assert bias is not None
    total = live.apply(_random(5, K)).square().sum() + live.apply_to_weight(_random(N, K)).square().sum() + bias.sum()
    gradients = torch.autograd.grad(total, list(parts.values()))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)
    still = live.detached()
    assert not any(value.requires_grad for value in vars(still).values())
    assert all(torch.equal(value, getattr(live, name)) for name, value in vars(still).items())
