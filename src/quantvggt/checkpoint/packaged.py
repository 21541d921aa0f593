"""The models that come with the package: vggt-nano as it is, its other forms as what they change of it.

An overlay is a .safetensors file beside a config.json. It holds, under the name of a tensor W of its base model,
either its replacement, or `W.left` [N, r] and `W.right` [r, K] of floating point: the tensor is then W + left @ right.
Everything else is the base model's. The sum is formed in float64 and rounded to the dtype in which the base stores
the tensor, so the merged model is the one that a whole checkpoint of the base's size would hold.
"""

import math
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from quantvggt.checkpoint.config import WEIGHTS_NAME
from quantvggt.checkpoint.layouts import ShardedFile, is_index
from quantvggt.checkpoint.weights import SafetensorsFile, TensorInfo, WeightsFile, open_weights
from quantvggt.core.errors import InputError

NANO, HEAVY, LONG = NAMES = ("vggt-nano", "vggt-nano-heavy", "vggt-nano-long")
OVERLAY_NAME = "overlay.safetensors"
LEFT, RIGHT = ".left", ".right"

_REMEDY = "the file does not belong to vggt-nano or is damaged, install quantvggt again"


def packaged_weights(name: str) -> Path:
    """The file of a name in `NAMES`: a checkpoint's weights or an overlay."""
    return Path(str(files("quantvggt") / "assets" / name)) / (WEIGHTS_NAME if name == NANO else OVERLAY_NAME)


def open_any(path: Path) -> WeightsFile:
    """`open_weights`, shards by their index, and overlays merged with vggt-nano. InputError if it is none of them."""
    if is_index(path):
        return ShardedFile(path)
    return OverlayFile(path) if path.name == OVERLAY_NAME else open_weights(path)


class OverlayFile(WeightsFile):
    """Reads like the merged file: names, shapes and dtypes are the base model's."""

    def __init__(self, path: Path, base: Path | None = None) -> None:
        """base: the file it changes, vggt-nano's by default. Raises InputError if the two don't fit together."""
        self.path = path
        self._base = open_weights(base or packaged_weights(NANO))
        changes = SafetensorsFile(path)
        _check(path, changes.infos, self._base.infos)
        self._changes = dict(changes.tensors())
        self.infos = self._base.infos

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        for name, base in self._base.tensors():
            yield name, self._merged(name, base)

    def _merged(self, name: str, base: Tensor) -> Tensor:
        if name in self._changes:
            return self._finite(name, self._changes[name].to(base.dtype))
        if name + LEFT in self._changes:
            update = self._changes[name + LEFT].double() @ self._changes[name + RIGHT].double()
            return self._finite(name, (base.double() + update.view(base.shape)).to(base.dtype))
        return base

    def _finite(self, name: str, value: Tensor) -> Tensor:
        if not bool(torch.isfinite(value).all()):
            raise InputError(f"{self.path}: {name} is not finite; {_REMEDY}")
        return value


def _check(path: Path, changes: dict[str, TensorInfo], base: dict[str, TensorInfo]) -> None:
    """Raise InputError unless every change has a tensor to change, of the right shape."""
    for name, info in changes.items():
        if not info.is_float:
            raise InputError(f"{path}: {name} is {info.dtype}, expected floating point of 16 to 64 bits; {_REMEDY}")
        target = name.removesuffix(LEFT).removesuffix(RIGHT)
        if target not in base:
            raise InputError(f"{path}: {name} changes no tensor of the base model; {_REMEDY}")
        shape = base[target].shape
        if target == name:
            if info.shape != shape:
                raise InputError(f"{path}: {name} has shape {list(info.shape)}, expected {list(shape)}; {_REMEDY}")
            continue
        left, right = changes.get(target + LEFT), changes.get(target + RIGHT)
        if target in changes or left is None or right is None:
            raise InputError(f"{path}: {target} needs a replacement or two factors, not one or all; {_REMEDY}")
        rows, columns = shape[0], math.prod(shape[1:])
        if len(left.shape) != 2 or left.shape[0] != rows or right.shape != (left.shape[1], columns):
            raise InputError(
                f"{path}: factors {list(left.shape)} and {list(right.shape)} of {target} don't multiply to "
                f"{list(shape)}; {_REMEDY}"
            )
