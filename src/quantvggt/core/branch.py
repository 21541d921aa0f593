"""A low-rank branch: what of a layer's input lies in a few directions goes past the few bits of all others.

For y = X' W'^T, X' the input before its rotation, centred and balanced, and U [K, R]: z = X' U is rounded to 8 bits,
z U^T is taken out of X', and y = (X' - z U^T) W'^T + z (W' U)^T. That holds whatever z and U are, so neither's rounding
is lost. Inputs of a trained network's layers vary in few directions, so what is left has a much smaller range. Since
next to nothing of U's directions is left in it, W' needs none of them either: with D = U (U^T U)^-1 it may act as
W' - W' D U^T, which is smaller too, and then z's weight is W' D, for U rounded to 8 bits isn't quite orthonormal.
`kernels.contract` has the arithmetic. SVDQuant (arXiv 2411.05007) splits weights like this; here it is the input.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from quantvggt.core.affine import dequantize, quantize_weight
from quantvggt.core.transform import Transform

BITS = 8


@dataclass(frozen=True)
class Branch:
    """basis: U as int8 [K, R] times basis_scale float32 [1]; weight: W' D as int8 [N, R] times scale float32 [N, 1]."""

    basis: Tensor
    basis_scale: Tensor
    weight: Tensor
    scale: Tensor

    @classmethod
    def split(cls, directions: Tensor, weight: Tensor) -> tuple["Branch", Tensor]:
        """The branch of `directions` float [K, R], orthonormal, beside W' float [N, K], and W' - W' D U^T float32."""
        flat, scale = quantize_weight(directions.reshape(1, -1), BITS)
        basis = flat.view(directions.shape)
        u = dequantize(basis, scale).double()
        along = weight.double() @ torch.linalg.solve(u.t() @ u, u.t()).t()
        left = weight.double() - along @ u.t()
        return cls(basis, scale.view(1), *quantize_weight(along.float(), BITS)), left.float()

    @property
    def directions(self) -> Tensor:
        """U, float32 [K, R]."""
        return dequantize(self.basis, self.basis_scale)

    def together(self, weight: Tensor, transform: Transform) -> Tensor:
        """The one matrix that acts on X'' where `weight` float [N, K] acts on what the branch leaves of it."""
        turned = Transform(signs=transform.signs).apply(self.directions.t())  # U^T of X''
        if transform.smooth is not None:
            taken, put = turned / transform.smooth, turned * transform.smooth
        else:
            taken = put = turned
        return weight + (dequantize(self.weight, self.scale) - weight @ taken.t()) @ put
