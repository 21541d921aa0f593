"""What quantized layers share: a weight in few bits with one scale per output channel, and a bias."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from quantvggt.core.affine import dequantize, quantize_weight
from quantvggt.core.float8 import FLOAT8, quantize_float8
from quantvggt.core.packing import MEMORY_BITS, pack_int4, packed_width, unpack_int4
from quantvggt.core.scheme import Scheme
from quantvggt.kernels.ops import dequantize_weight
from quantvggt.nn.tensors import TENSORS


class QuantWeight(nn.Module):
    """Buffers, named as in a checkpoint: `weight_packed` int32 [N, ceil(K / 8)] (weight_bits <= 4) or `weight` int8
    [N, K], float8_e4m3fn in a scheme of float8, `weight_scale` float32 [N, 1], and `bias` [N] if there is one.

    Moving the module to another dtype changes the bias only; the weight and those of `nn.tensors.TENSORS` stay as they
    are. There is no gradient to the weight.
    """

    bias: Tensor | None
    weight_scale: Tensor

    def __init__(self, in_features: int, out_features: int, scheme: Scheme) -> None:
        super().__init__()
        self.in_features, self.out_features, self.scheme = in_features, out_features, scheme

    def _add_weight(self, device: torch.device | str) -> None:
        """Buffers for the weight without values."""
        rows, k = self.out_features, self.in_features
        if self.packed:
            self._add("weight_packed", (rows, packed_width(k)), torch.int32, device)
        else:
            self._add("weight", (rows, k), FLOAT8 if self.scheme.float8 else torch.int8, device)
        self._add("weight_scale", (rows, 1), torch.float32, device)

    def _add(self, name: str, shape: tuple[int, ...] | None, dtype: torch.dtype, device: torch.device | str) -> None:
        self.register_buffer(name, None if shape is None else torch.empty(shape, dtype=dtype, device=device))

    def set_weight(self, q: Tensor, scale: Tensor) -> None:
        """q int8 or float8 [N, K], scale float32 [N, 1]."""
        self.weight_scale.copy_(scale)
        if self.packed:
            self.get_buffer("weight_packed").copy_(pack_int4(q))
        else:
            self.get_buffer("weight").copy_(q)

    @property
    def packed(self) -> bool:
        """Two numbers a byte."""
        return self.scheme.weight_bits <= MEMORY_BITS

    @property
    def checkpoint_bytes(self) -> int:
        """What numbers, scales and optional tensors take in a checkpoint, where 2 and 3 bits have no wider fields."""
        others = sum(x.nbytes for name, x in self.named_buffers() if name not in ("bias", "weight", "weight_packed"))
        row = 4 * packed_width(self.in_features, self.scheme.weight_bits) if self.packed else self.in_features
        return others + self.out_features * row

    @property
    def stored_weight(self) -> Tensor:
        """As it lies in memory: `weight_packed` or `weight`."""
        weight = self._buffers["weight_packed" if self.packed else "weight"]
        assert weight is not None
        return weight

    def integer_weight(self) -> Tensor:
        """int8 [N, K], unpacked if need be; float8 in a scheme of float8."""
        return unpack_int4(self.stored_weight, self.in_features) if self.packed else self.stored_weight

    def dequantized_weight(self) -> Tensor:
        """The weight that its few bits stand for, float32 [N, K]."""
        if self.scheme.float8:
            return dequantize(self.stored_weight, self.weight_scale)
        weight: Tensor = dequantize_weight(self.stored_weight, self.weight_scale, self.in_features, torch.float32)
        return weight

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, scheme={self.scheme.name}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantWeight":
        kept = {name: self._buffers.get(name) for name in ("weight", *TENSORS)}
        super()._apply(fn, recurse)
        for name, before in kept.items():
            after = self._buffers.get(name)
            if before is not None and after is not None and after.dtype != before.dtype:
                self._buffers[name] = before.to(after.device)
        return self


def round_weight(weight: Tensor, scheme: Scheme, clip: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A weight [N, K] to the scheme's nearest numbers: (int8 or float8 [N, K], scale float32 [N, 1]).

    `clip` [N, 2] as in `core.affine.quantize_weight`, for integers.
    """
    return quantize_float8(weight) if scheme.float8 else quantize_weight(weight, scheme.weight_bits, clip)
