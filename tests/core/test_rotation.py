import numpy as np
import pytest
import torch
from scipy.linalg import hadamard

from quantvggt.core.errors import InputError
from quantvggt.core.rotation import (
    hadamard_transform,
    inner_order,
    paley,
    random_signs,
    rotate,
    signs_from_matrix,
)

PALEY_SIZES = [12, 20, 28, 36, 44, 60, 68]  # Paley I with q = 11, 19, 43, 59, 67; II with q = 13, 17


def _random(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("d", [1, 2, 4, 64, 256, 1024])
def test_powers_of_two_follow_sylvester(d):
    x = _random(3, d)
    torch.testing.assert_close(hadamard_transform(x), x @ torch.from_numpy(hadamard(d) / d**0.5))


@pytest.mark.parametrize("m", PALEY_SIZES)
def test_paley_matrices_are_hadamard(m):
    h = paley(m)
    assert inner_order(m) == m
    assert set(np.unique(h)) == {-1.0, 1.0}
    np.testing.assert_array_equal(h @ h.T, m * np.eye(m))


@pytest.mark.parametrize(("power", "m"), [(2, 12), (32, 12), (4, 20), (2, 28), (1, 36), (2, 104)])
def test_other_sizes_are_sylvester_outside_paley_inside(power, m):
    d = power * m
    h = np.kron(hadamard(power), paley(m)) / d**0.5
    assert inner_order(d) == m
    torch.testing.assert_close(hadamard_transform(torch.eye(d, dtype=torch.float64)), torch.from_numpy(h))


def test_float32_stays_within_rounding_of_float64_for_many_rows():
    x = _random(7, 97, 4096)
    expected = hadamard_transform(x)
    assert expected.dtype == torch.float64
    torch.testing.assert_close(expected.norm(dim=-1), x.norm(dim=-1))
    got = hadamard_transform(x.float())
    assert got.dtype == torch.float32
    assert (got - expected).abs().max() < 2e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_settings_do_not_reach_in(dtype):
    x = _random(5, 384, dtype=torch.float32).to(dtype)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = hadamard_transform(x)
    finally:
        torch.set_float32_matmul_precision(before)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), hadamard_transform(x.double()), rtol=0, atol=2e-6)


@pytest.mark.parametrize("d", [8, 24])
def test_gradients(d):
    x = _random(2, 3, d).requires_grad_()
    assert torch.autograd.gradcheck(hadamard_transform, x)
    assert torch.autograd.gradgradcheck(hadamard_transform, x)


def test_shapes_without_rows_or_data():
    assert hadamard_transform(torch.empty(0, 24)).shape == (0, 24)
    assert hadamard_transform(torch.empty(2, 3, 64, device="meta")).shape == (2, 3, 64)


@pytest.mark.parametrize("d", [3, 6, 66, 185, 92, 116])
def test_impossible_sizes_are_named(d):
    with pytest.raises(InputError, match=f"{d} channels"):
        hadamard_transform(torch.zeros(1, d))


def test_signs_are_fixed_by_their_seed():
    assert random_signs(12, seed=7).tolist() == [1, -1, 1, -1, 1, 1, 1, 1, -1, 1, -1, 1]
    signs = random_signs(4096, seed=3)
    assert signs.dtype == torch.int8
    assert set(signs.tolist()) == {-1, 1}
    assert abs(int(signs.sum())) < 300
    assert torch.equal(signs, random_signs(4096, seed=3))
    assert not torch.equal(signs, random_signs(4096, seed=4))


def test_rotation_cancels_in_a_product():
    x, w, signs = _random(5, 48), _random(7, 48), random_signs(48, 0)
    torch.testing.assert_close(rotate(x, signs) @ rotate(w, signs).T, x @ w.T)


@pytest.mark.parametrize("d", [64, 96, 1024])
def test_signs_come_back_from_a_dense_rotation(d):
    signs = random_signs(d, 5)
    matrix = rotate(torch.eye(d), signs)
    assert torch.equal(signs_from_matrix(matrix), signs)
    with pytest.raises(InputError, match="not signs times"):
        signs_from_matrix(matrix.roll(1, dims=1))


def test_matrices_that_are_no_rotation():
    with pytest.raises(InputError, match="square"):
        signs_from_matrix(torch.zeros(4, 8))
    with pytest.raises(InputError, match="not signs times"):
        signs_from_matrix(torch.full((8, 8), torch.nan))
