"""Random Hadamard rotations as fast transforms: d log d additions instead of a dense d x d product.

The Hadamard matrix of size d = 2^n m is the Kronecker product H_{2^n} (x) H_m, Sylvester's H_{2^n} outside
and Paley's H_m inside; d = 2^n has m = 1. A row x becomes x diag(signs) H / sqrt(d), which is the "pre-global
rotation" of QuantVGGT (arXiv 2509.21302) as its published code applies it.
Only additions in a fixed order are used: first H_m, its terms added in order, then the butterflies from the
shortest stride to the longest, the factor last. So settings of matrix units (TF32, autocast) don't reach in,
and another implementation with this order gives the same bits.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from quantvggt.core.chunks import cached_rows
from quantvggt.core.errors import InputError


def random_signs(dim: int, seed: int) -> Tensor:
    """int8 [dim] of +1 and -1, the same on every machine for one seed."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (dim,), generator=generator, dtype=torch.int8) * 2 - 1


def rotate(x: Tensor, signs: Tensor) -> Tensor:
    """`hadamard_transform` of x diag(signs), signs [d] of +1 and -1; the same dtypes and errors."""
    return hadamard_transform(_at_least_float32(x) * signs)


def hadamard_transform(x: Tensor) -> Tensor:
    """x H / sqrt(d) over the last dimension, orthonormal; float32, or float64 if `x` is. Differentiable.

    Raises InputError if no Hadamard matrix of that size is known here.
    """
    x = _at_least_float32(x)
    d = x.shape[-1]
    inner_order(d)
    y: Tensor = _Transform.apply(x.reshape(-1, d), False)
    return y.reshape(x.shape)


def signs_from_matrix(matrix: Tensor) -> Tensor:
    """The int8 signs v [d] of a dense rotation diag(v) H / sqrt(d), float [d, d].

    Raises InputError if the matrix is not of that form.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
        raise InputError(f"a rotation matrix must be square, not {list(matrix.shape)}")
    matrix = _at_least_float32(matrix)
    hadamard = hadamard_transform(torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device))
    signs = torch.where((matrix * hadamard).sum(1) < 0, -1, 1).to(torch.int8)
    error = (matrix - signs[:, None] * hadamard).abs().max().item()
    if not error < 1e-3 * len(matrix) ** -0.5:
        raise InputError(
            f"rotation matrix of size {len(matrix)} is not signs times a Hadamard matrix (off by "
            f"{error:.2g}); only random Hadamard rotations can be imported"
        )
    return signs


@lru_cache
def inner_order(d: int) -> int:
    """The smallest m with d = 2^n m for which H_m can be built (1, or Paley's 12, 20, 28, ...).

    Raises InputError if there is none.
    """
    if d > 0:
        odd = d // (d & -d)
        m = 1 if odd == 1 else 4 * odd
        while d % m == 0:
            if m == 1 or _paley_prime(m):
                return m
            m *= 2
    raise InputError(f"no Hadamard rotation for {d} channels: {d} is not 2^n times 1, 12, 20, 28 or the like")


class _Transform(torch.autograd.Function):
    """Rows [R, d] times H / sqrt(d), or its transpose; the gradient of each is the other."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, transpose: bool) -> Tensor:
        ctx.transpose = transpose
        d, step = rows.shape[1], cached_rows(rows)
        out = torch.empty_like(rows)
        for chunk, result in zip(rows.split(step), out.split(step), strict=True):
            # Transposed, every butterfly works on long contiguous runs, whatever its stride.
            torch.mul(_columns(chunk.t().contiguous(), transpose).t(), d**-0.5, out=result)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _Transform.apply(gradients[0], not ctx.transpose), None


def _columns(x: Tensor, transpose: bool) -> Tensor:
    """Unscaled transform along the first dimension of `x` [d, R], whose memory is used up."""
    d, count = x.shape
    m = inner_order(d)
    other = torch.empty_like(x)
    if m > 1:
        h = torch.from_numpy(paley(m)).to(x)
        h = h.t() if transpose else h
        blocks, out = x.view(d // m, m, count), other.zero_().view(d // m, m, count)
        for i in range(m):
            out.addcmul_(blocks[:, i : i + 1], h[i].view(m, 1))
        x, other = other, x
    half = m
    while half < d:
        shape = d // (2 * half), 2, half * count
        pairs, out = x.view(shape), other.view(shape)
        torch.add(pairs[:, 0], pairs[:, 1], out=out[:, 0])
        torch.sub(pairs[:, 0], pairs[:, 1], out=out[:, 1])
        x, other = other, x
        half *= 2
    return x


def _paley_prime(m: int) -> int:
    """The prime q of Paley's construction of H_m: I, m = q + 1 with q = 3 mod 4, or II, m = 2q + 2 with
    q = 1 mod 4; 0 if neither works."""
    for q, residue in ((m - 1, 3), (m // 2 - 1, 1)):
        if q % 4 == residue and q > 1 and all(q % p for p in range(2, int(q**0.5) + 1)):
            return q
    return 0


@lru_cache
def paley(m: int) -> np.ndarray:
    """Paley's Hadamard matrix H_m, float64 [m, m] of +1 and -1, for an m > 1 that `inner_order` returns.

    Source: R. E. A. C. Paley, "On orthogonal matrices", 1933.
    """
    q = _paley_prime(m)
    character = np.full(q, -1.0)  # of the field with q elements: 1 for squares, -1 for others, 0 for zero
    character[np.arange(q) ** 2 % q] = 1
    character[0] = 0
    conference = np.ones((q + 1, q + 1))
    conference[0, 0] = 0
    conference[1:, 1:] = character[np.subtract.outer(np.arange(q), np.arange(q)) % q]
    if m == q + 1:
        conference[1:, 0] = -1
        return np.eye(m) + conference
    return np.kron(conference, [[1, 1], [1, -1]]) + np.kron(np.eye(q + 1), [[1, -1], [-1, -1]])


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
