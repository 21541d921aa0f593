"""How quickly this machine runs a kind of model, as far as it has been seen."""

import copy
import json
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch

from quantvggt.core.cache import cache_folder
from quantvggt.core.errors import InputError
from quantvggt.core.files import atomic_file
from quantvggt.core.machine import processor
from quantvggt.kernels.measured import measure, one_thread
from quantvggt.models import Model
from quantvggt.models.cost import block_operations
from quantvggt.nn.block import Block
from quantvggt.nn.quant_linear import mark_frames

FILE = "rates.json"
SHARE_OF_BLOCK = 0.7
"""Of what one block reaches, where no run has been timed yet: heads and whatever isn't a product are slower."""
SHARE_OF_PRODUCT = 0.3  # of what a bare product reaches, for families whose blocks we can't run
_SIDE = 1024
_TOKENS = 1024  # a block is timed on whole frames of so many together, at least one


class Rate(NamedTuple):
    """timed: is it that of a run, or guessed?"""

    per_second: float
    timed: bool


def rate_of(outline: Model, count: int, size: tuple[int, int], device: torch.device) -> Rate:
    """Operations a second on so many frames of that height and width: as the last run of such a model on this machine
    had them, else guessed from a block of the model. Raises InputError if it can't run on such frames."""
    kept = _kept().get(_kind(outline, device))
    if isinstance(kept, float) and kept > 0:
        return Rate(kept, True)
    block = outline.get_submodule(outline.trunk.places[0].name)
    if isinstance(block, Block):
        return Rate(SHARE_OF_BLOCK * _of_block(block, outline, count, size, device), False)
    a, b = (torch.randn(_SIDE, _SIDE, device=device).to(outline.products or outline.dtype) for _ in range(2))
    return Rate(SHARE_OF_PRODUCT * 2 * _SIDE**3 / _seconds(lambda: a @ b, device), False)


def _of_block(block: Block, outline: Model, count: int, size: tuple[int, int], device: torch.device) -> float:
    """Operations a second of a block of the trunk, by some of the frames. All of its numbers are 1, which every tensor
    of a layer may hold: they don't matter to the time."""
    block = copy.deepcopy(block).to_empty(device=device)
    for values in block.state_dict().values():
        values.fill_(1)
    tokens = outline.trunk.special + (size[0] // outline.patch_size) * (size[1] // outline.patch_size)
    mark_frames(block, tokens, outline.trunk.special)
    frames, dim = min(count, max(1, _TOKENS // tokens)), block.norm1.normalized_shape[0]
    x = torch.randn(frames, tokens, dim, device=device).to(outline.dtype)
    mixed = nullcontext() if outline.products is None else torch.autocast(device.type, outline.products)
    with torch.inference_mode(), mixed:
        return block_operations(dim, frames * tokens, tokens) / _seconds(lambda: block(x), device)


def _seconds(run: Callable[[], torch.Tensor], device: torch.device) -> float:
    """On a CPU processor time of one thread, divided among all: on a busy machine nothing else says how quick it is."""
    if device.type == "cpu":
        with one_thread():
            taken = measure({"": run})[""]
        threads = torch.get_num_threads()
    else:
        taken, threads = measure({"": lambda: run().sum().item()}, time.perf_counter)[""], 1
    assert taken is not None, "the first that is measured always is"
    return max(taken, 1e-9) / threads


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
