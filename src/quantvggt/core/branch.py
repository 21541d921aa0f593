"""A low-rank branch: what of a layer's input lies in a few directions goes past the few bits of all others.

For y = X' W'^T, X' the input before its rotation, centred and balanced, and U [K, R]: z = X' U is rounded to 8 bits,
z U^T is taken out of X', and y = (X' - z U^T) W'^T + z (W' U)^T. That holds whatever z and U are, so neither's rounding
is lost. Inputs of a trained network's layers vary in few directions, so what is left has a much smaller range.

Where z is fine enough, next to nothing of some directions F among U's is left in X' - z U^T. Then W' needs none of
them either: it may act as W' - W' D F^T there, which is smaller, and so is its rounding error. D = F (F^T F)^-1, and
z's weight is then W' (U + D (E - F^T U)), E the rows of the identity that F stands for: W' U if F is empty, W' D if F
is U.
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
    """basis: U as int8 [K, R] times basis_scale float32 [1]; weight: z's, int8 [N, R] times scale float32 [N, 1]."""

    basis: Tensor
    basis_scale: Tensor
    weight: Tensor
    scale: Tensor

    @classmethod
    def split(cls, directions: Tensor, weight: Tensor, fine: Tensor | None = None) -> tuple["Branch", Tensor]:
        """The branch of `directions` float [K, R], orthonormal, beside W' float [N, K], and W' - W' D F^T float32.

        fine: bool [R], which of them are F; none if left out.
        """
        flat, scale = quantize_weight(directions.reshape(1, -1), BITS)
        basis = flat.view(directions.shape)
        u, exact = dequantize(basis, scale).double(), weight.double()
        along, left = exact @ u, exact
        if fine is not None and fine.any():
            f = u[:, fine]
            into = exact @ torch.linalg.solve(f.t() @ f, f.t()).t()
            own = torch.eye(u.shape[1], dtype=u.dtype, device=u.device)[fine]
            along, left = along + into @ (own - f.t() @ u), left - into @ f.t()
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
