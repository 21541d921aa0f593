"""What is done to a linear layer's input before it is rounded, and to its weight so that the product stays.

For y = X W^T + b:

    X'' = ((X - s) / p) A diag(v) H / sqrt(K) / c        W'' = (W p) A^-T diag(v) H / sqrt(K) * c

so X'' W''^T + (b + s W^T) = y. Every part is optional. Its uses: p is SmoothQuant's factor and c the one that QuantVGGT
applies after its rotation diag(v) H; A = L (x) R is FlatQuant's learned map, a Kronecker product of two small matrices;
s takes a constant out of the input (GELU's outputs are far from centred).
"""

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from quantvggt.core.rotation import rotate


@dataclass(frozen=True)
class Transform:
    """shift s, presmooth p, smooth c: float32 [K], p and c positive; left L [a, a] and right R [K / a, K / a], both
    or neither, invertible; signs v: int8 [K] of +1 and -1."""

    shift: Tensor | None = None
    presmooth: Tensor | None = None
    left: Tensor | None = None
    right: Tensor | None = None
    signs: Tensor | None = None
    smooth: Tensor | None = None

    def before_rotation(self, x: Tensor) -> Tensor:
        """X [.., K] -> ((X - s) / p) A; float32 where anything is done. Differentiable."""
        if self.shift is not None:
            x = x.float() - self.shift
        if self.presmooth is not None:
            x = x.float() / self.presmooth
        if self.left is not None and self.right is not None:
            x = kronecker(x.float(), self.left, self.right)
        return x

    def apply(self, x: Tensor) -> Tensor:
        """X [.., K] -> X'' float32. Differentiable."""
        x = self.before_rotation(x).float()
        if self.signs is not None:
            x = rotate(x, self.signs)
        return x if self.smooth is None else x / self.smooth

    def apply_to_weight(self, weight: Tensor) -> Tensor:
        """W [N, K] -> W'' float32. Differentiable."""
        weight = weight.float()
        if self.presmooth is not None:
            weight = weight * self.presmooth
        if self.left is not None and self.right is not None:
            weight = kronecker(weight, torch.linalg.inv(self.left).t(), torch.linalg.inv(self.right).t())
        if self.signs is not None:
            weight = rotate(weight, self.signs)
        return weight if self.smooth is None else weight * self.smooth

    def apply_to_bias(self, weight: Tensor, bias: Tensor | None) -> Tensor | None:
        """b + s W^T, float32 [N]; None if there is neither."""
        if self.shift is None:
            return bias
        moved = weight.float() @ self.shift
        return moved if bias is None else bias.float() + moved

    def detached(self) -> "Transform":
        """The same numbers without a graph."""
        tensors = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: value.detach() for name, value in tensors.items() if value is not None})


def kronecker(x: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """X (L (x) R) for X [.., a b], L [a, a], R [b, b], without the [a b, a b] matrix."""
    grid = x.unflatten(-1, (len(left), len(right)))
    return (left.t() @ (grid @ right)).flatten(-2)
