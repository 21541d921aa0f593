"""What is finished on disk, so that an interrupted calibration goes on where it stopped."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from quantvggt.core.scheme import Scheme
from quantvggt.jobs import store
from quantvggt.models import Model
from quantvggt.nn.quant_linear import QuantLinear
from quantvggt.nn.tensors import optional_shapes
from quantvggt.scenes.clip import Clip

PREFIX, LOSSES = "unfinished-", "losses.json"
ROOMS = ("calibrate", "core", "jobs", "kernels", "models", "nn", "scenes")
"""Whose code the numbers of a finished block depend on."""


def fingerprint(model: Model, clips: Sequence[Clip], record: dict[str, Any]) -> str:
    """A text that is the same for the same model, images, task and code, and for no other."""
    images = ((f"clip {index}", clip.images) for index, clip in enumerate(clips))
    return store.task_of(record, [*model.state_dict().items(), *images], ROOMS)


class Journal:
    """A folder with one file per finished block, and one of the losses that a budget is spent by.

    Those of another task (see `fingerprint`) are passed over, and replaced one by one. It stays until `discard`: what
    calibration made should be saved first.
    """

    def __init__(self, folder: str | os.PathLike[str], task: str) -> None:
        self._store = store.Store(folder, task, PREFIX)

    def read(self, block: str) -> dict[str, QuantLinear] | None:
        """The layers of a finished block, None if it isn't finished or belongs to another task."""
        kept = self._store.read_tensors(f"{block}.safetensors")
        if kept is None:
            return None
        tensors, shapes = kept
        return {layer: _layer(tensors, layer, *shape) for layer, shape in shapes.items()}

    def write(self, block: str, layers: dict[str, QuantLinear]) -> None:
        """Keep a finished block."""
        shapes = {layer: (x.in_features, x.out_features, x.scheme.name) for layer, x in layers.items()}
        tensors = {f"{layer}.{name}": value for layer, x in layers.items() for name, value in x.state_dict().items()}
        self._store.write_tensors(f"{block}.safetensors", tensors, shapes)

    def read_losses(self) -> dict[str, float]:
        """Those measured so far, by group."""
        return self._store.read(LOSSES) or {}

    def write_losses(self, losses: Mapping[str, float]) -> None:
        """Keep them."""
        self._store.write(LOSSES, dict(losses))


def discard(folder: str | os.PathLike[str]) -> None:
    """The model is saved: what was kept is no longer needed. Other files in the folder stay."""
    store.discard(folder, PREFIX)


def _layer(tensors: dict[str, Tensor], name: str, in_features: int, out_features: int, scheme: str) -> QuantLinear:
    own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    shaped = nn.Linear(in_features, out_features, bias="bias" in own, device="meta")
    layer = QuantLinear.empty(shaped, Scheme.parse(scheme), optional_shapes(own), "meta")
    layer.load_state_dict(own, assign=True)
    return layer
