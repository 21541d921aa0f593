"""Shows the inputs of layers to whoever asks for them, while a block or the trunk runs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from tqdm import tqdm

from quantvggt.models import Model
from quantvggt.scenes.clip import Clip

Observer = Callable[[Tensor], None]


@contextmanager
def watched(root: nn.Module, observers: Mapping[str, Observer]) -> Iterator[None]:
    """While this is open, `observers[name]` is called with every input [.., K] of that layer of `root`."""
    handles = [
        root.get_submodule(name).register_forward_pre_hook(partial(_show, observer))
        for name, observer in observers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.inference_mode()
def observe_inputs(model: Model, clips: Sequence[Clip], observers: Mapping[str, Observer], progress: bool) -> None:
    """Run the trunk over the calibration set, `watched`: once per clip, in the order layers run.

    Nothing is stored: memory stays that of one forward pass of the trunk, without the heads.
    """
    with watched(model, observers):
        for clip in tqdm(clips, desc="calibrating", unit="clip", disable=not progress):
            model.encode(clip.images[None].to(model.device, model.dtype))


def _show(observer: Observer, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    observer(inputs[0])
