"""Compare what a weights file holds with what a model needs, before a single number is read."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from torch import Tensor

from quantvggt.checkpoint.weights import TensorInfo
from quantvggt.core.errors import InputError

_SHOWN = 3
_RULES: dict[str, Callable[[Tensor], Tensor]] = {
    "weight_scale": lambda x: x.isfinite() & (x >= 0),
    "input_smooth": lambda x: x.isfinite() & (x > 0),
    "input_presmooth": lambda x: x.isfinite() & (x > 0),
    "input_shift": torch.isfinite,
    "input_left": torch.isfinite,
    "input_right": torch.isfinite,
    "input_range": lambda x: x.isfinite() & (x * x.new_tensor([1, -1]) >= 0),
    "input_clip": lambda x: (x > 0) & (x <= 1),
    "rotation_signs": lambda x: x.abs() == 1,
}


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
        if name not in fixed and not have.dtype.is_floating_point:
            raise InputError(f"{path}: {name} is {have.dtype}, expected floating point; {remedy}")


def check_values(path: Path, name: str, values: Tensor) -> None:
    """Raise InputError if a tensor of a quantized layer holds numbers that cannot be right."""
    rule = _RULES.get(name.rpartition(".")[2])
    if rule is not None and not bool(torch.all(rule(values))):
        raise InputError(f"{path}: {name} holds impossible values; the file is damaged, fetch it again")


def _shorten(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
