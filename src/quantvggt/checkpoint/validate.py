"""Compare what a weights file holds with what a model needs, before a single number is read."""

from collections.abc import Collection, Mapping
from pathlib import Path

from torch import Tensor

from quantvggt.checkpoint.weights import TensorInfo
from quantvggt.core.errors import InputError
from quantvggt.core.float8 import FLOAT8
from quantvggt.nn.tensors import TENSORS, WEIGHT8

_SHOWN = 3


def check_infos(
    path: Path,
    found: Mapping[str, TensorInfo],
    expected: Mapping[str, TensorInfo],
    fixed: Collection[str],
    remedy: str,
) -> None:
    """Raise InputError, ending in `remedy`, unless names and shapes agree.

    Names in `fixed` must have the expected dtype exactly; any other tensor may be of any floating type.
    """
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    if missing or unexpected:
        parts = [
            f"{len(names)} {kind} tensors ({_shorten(names)})"
            for kind, names in (("missing", missing), ("unexpected", unexpected))
            if names
        ]
        raise InputError(f"{path}: {' and '.join(parts)}; {remedy}")
    for name, want in expected.items():
        have = found[name]
        if have.shape != want.shape:
            shapes = f"has shape {list(have.shape)}, expected {list(want.shape)}"
            raise InputError(f"{path}: {name} {shapes}; {remedy}")
        if name in fixed and have.dtype != want.dtype:
            raise InputError(f"{path}: {name} is {have.dtype}, expected {want.dtype}; {remedy}")
        if name not in fixed and not have.is_float:
            raise InputError(f"{path}: {name} is {have.dtype}, expected floating point of 16 to 64 bits; {remedy}")


def check_values(path: Path, name: str, values: Tensor) -> None:
    """Raise InputError if a tensor of a quantized layer holds numbers that cannot be right."""
    tensor = WEIGHT8 if values.dtype is FLOAT8 else TENSORS.get(name.rpartition(".")[2])
    if tensor is not None and not tensor.holds(values):
        raise InputError(
            f"{path}: {name} holds impossible values, each must be {tensor.words}; the file is damaged, fetch it again"
        )


def _shorten(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
