"""Runs the trunk over the calibration set and shows every layer's input to whoever asked for it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from tqdm import tqdm

from quantvggt.models import Model
from quantvggt.scenes.clip import Clip

Observer = Callable[[Tensor], None]


@torch.inference_mode()
def observe_inputs(model: Model, clips: Sequence[Clip], observers: Mapping[str, Observer], progress: bool) -> None:
    """Call `observers[site]` with the input [.., K] of that layer, once per clip, in the order layers run.

    Nothing is stored: memory stays that of one forward pass of the trunk, without the heads.
    """
    handles = [
        model.get_submodule(site).register_forward_pre_hook(partial(_show, observer))
        for site, observer in observers.items()
    ]
    try:
        for clip in tqdm(clips, desc="calibrating", unit="clip", disable=not progress):
            model.encode(clip.images[None].to(model.device, model.dtype))
    finally:
        for handle in handles:
            handle.remove()


def _show(observer: Observer, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    observer(inputs[0])
