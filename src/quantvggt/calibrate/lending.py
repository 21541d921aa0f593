"""A model at work on a device that needn't hold it: its blocks come there one at a time, as they run."""

import copy
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from quantvggt.models import Model
from quantvggt.nn.block import Block

M = TypeVar("M", bound=Model)
B = TypeVar("B", bound=nn.Module)


def lend(model: M, device: torch.device) -> M:
    """A copy of `model`, on its numbers, that computes on `device`; the model itself if it is there.

    What lies outside of blocks (0.6 GB of VGGT-1B in float32) is brought there for good, a block while it runs, or for
    as long as a backward pass needs it.
    """
    if device == model.device or (device.type == "cuda" == model.device.type and device.index is None):
        return model
    lent = model.sharing_copy()
    blocks = [module for module in lent.modules() if isinstance(module, Block)]
    inside = {part for block in blocks for part in block.modules()}
    for part in lent.modules():
        if part not in inside:
            _bring(part, device)
    for block in blocks:
        at_home: list[Any] = []
        block.register_forward_pre_hook(partial(_come, device, at_home))
        block.register_forward_hook(partial(_go, at_home), always_call=True)
    return lent


def copy_on(module: B, device: torch.device) -> B:
    """A copy of `module` whose numbers are on `device`, which may be where they are."""
    return copy.deepcopy(module, {id(x): _moved(x, device) for x in (*module.parameters(), *module.buffers())})


def _come(device: torch.device, at_home: list[Any], block: nn.Module, inputs: Any) -> None:
    at_home += [(part, dict(part._parameters), dict(part._buffers)) for part in block.modules()]
    for part in block.modules():
        _bring(part, device)


def _go(at_home: list[Any], block: nn.Module, inputs: Any, outputs: Any) -> None:
    for part, parameters, buffers in at_home:
        part._parameters.update(parameters)
        part._buffers.update(buffers)
    at_home.clear()


def _bring(part: nn.Module, device: torch.device) -> None:
    for name, value in [*part.named_parameters(recurse=False), *part.named_buffers(recurse=False)]:
        setattr(part, name, _moved(value, device))


def _moved(value: Tensor, device: torch.device) -> Tensor:
    there = value.detach().to(device, copy=True)
    return nn.Parameter(there, value.requires_grad) if isinstance(value, nn.Parameter) else there
