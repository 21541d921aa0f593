"""How quickly this machine runs a kind of model, as far as it has been seen."""

import json
import time
from typing import Any, NamedTuple

import torch

from quantvggt.core.cache import cache_folder
from quantvggt.core.errors import InputError
from quantvggt.core.files import atomic_file
from quantvggt.core.machine import processor
from quantvggt.models import Model

FILE = "rates.json"
GUESSED_SHARE = 0.3  # of what a bare product reaches, where no run has been timed yet
_SIDE = 1024


class Rate(NamedTuple):
    """timed: is it that of a run, or guessed?"""

    per_second: float
    timed: bool


def rate_of(outline: Model, device: torch.device) -> Rate:
    """Operations a second: as the last run of such a model on this machine had them, else guessed from a product."""
    kept = _kept().get(_kind(outline, device))
    if isinstance(kept, float) and kept > 0:
        return Rate(kept, True)
    dtype = outline.products or outline.dtype
    a, b = (torch.randn(_SIDE, _SIDE, device=device).to(dtype) for _ in range(2))
    a @ b
    start = time.perf_counter()
    (a @ b).sum().item()
    return Rate(GUESSED_SHARE * 2 * _SIDE**3 / (time.perf_counter() - start), False)


def remember_rate(model: Model, count: int, size: tuple[int, int], seconds: float) -> None:
    """What a run of so many frames at once took, for the next estimate. Where it can't be kept it isn't."""
    operations = model.operations(count, *size)
    if operations is None or not seconds > 0:
        return
    try:
        with atomic_file(cache_folder() / FILE) as temporary:
            temporary.write_text(json.dumps({**_kept(), _kind(model, model.device): operations / seconds}))
    except InputError:
        return


def _kept() -> dict[str, Any]:
    try:
        kept = json.loads((cache_folder() / FILE).read_text())
        return kept if isinstance(kept, dict) else {}
    except (OSError, ValueError, InputError):
        return {}


def _kind(model: Model, device: torch.device) -> str:
    scheme = model.quantization.scheme.name if model.quantization else "float"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else processor()
    size = sum(value.nbytes for value in model.state_dict().values())
    how = f"{model.products or model.dtype} {scheme} {model.attention} {model.attention_bits}"
    return f"{where} {torch.get_num_threads()} {type(model).__name__} {size} {how}"
