"""What is finished on disk, so that an interrupted calibration goes on where it stopped."""

import hashlib
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from quantvggt.core.files import atomic_file
from quantvggt.core.scheme import Scheme
from quantvggt.models import Model
from quantvggt.nn.quant_linear import OPTIONAL_BUFFERS, QuantLinear
from quantvggt.scenes.clip import Clip

PREFIX, SUFFIX, LOSSES = "unfinished-", ".safetensors", "unfinished-losses.json"


def fingerprint(model: Model, clips: Sequence[Clip], record: dict[str, Any]) -> str:
    """A text that is the same for the same model, images and task, and for no other."""
    digest = hashlib.sha256(json.dumps({"quantvggt": version("quantvggt"), **record}, sort_keys=True).encode())
    tensors = [*model.state_dict().items(), *((f"clip {index}", clip.images) for index, clip in enumerate(clips))]
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {_checksum(tensor)}".encode())
    return digest.hexdigest()


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


class Journal:
    """A folder with one file per finished block, and one of the losses that a budget is spent by.

    Those of another task (model, images, method, settings) are passed over, and replaced one by one. It stays until
    `discard`: what calibration made should be saved first.
    """

    def __init__(self, folder: str | os.PathLike[str], task: str) -> None:
        self.folder, self.task = Path(folder), task

    def read(self, block: str) -> dict[str, QuantLinear] | None:
        """The layers of a finished block, None if it isn't finished or belongs to another task."""
        try:
            with safe_open(self._file(block), "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError):
            return None
        if metadata.get("task") != self.task:
            return None
        shapes = json.loads(metadata["layers"])
        return {layer: _layer(tensors, layer, *shape) for layer, shape in shapes.items()}

    def write(self, block: str, layers: dict[str, QuantLinear]) -> None:
        """Keep a finished block."""
        shapes = {layer: (x.in_features, x.out_features, x.scheme.name) for layer, x in layers.items()}
        tensors = {
            f"{layer}.{name}": value.contiguous()
            for layer, x in layers.items()
            for name, value in x.state_dict().items()
        }
        with atomic_file(self._file(block)) as temporary:
            save_file(tensors, temporary, {"task": self.task, "layers": json.dumps(shapes)})

    def read_losses(self) -> dict[str, float]:
        """Those measured so far, by group."""
        try:
            kept = json.loads((self.folder / LOSSES).read_text())
            return dict(kept["losses"]) if kept["task"] == self.task else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def write_losses(self, losses: Mapping[str, float]) -> None:
        """Keep them."""
        with atomic_file(self.folder / LOSSES) as temporary:
            temporary.write_text(json.dumps({"task": self.task, "losses": losses}))

    def _file(self, block: str) -> Path:
        return self.folder / f"{PREFIX}{block}{SUFFIX}"


def discard(folder: str | os.PathLike[str]) -> None:
    """The model is saved: what was kept is no longer needed. Other files in the folder stay."""
    folder = Path(folder)
    for name in (f"{PREFIX}*{SUFFIX}", LOSSES):
        for pattern in (name, f".{name}.*"):  # the latter were being written when killed
            for file in folder.glob(pattern):
                file.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _layer(tensors: dict[str, Tensor], name: str, in_features: int, out_features: int, scheme: str) -> QuantLinear:
    own = {key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")}
    bias = own.get("bias")
    layer = QuantLinear.empty(
        in_features,
        out_features,
        Scheme.parse(scheme),
        {key: tuple(own[key].shape) for key in OPTIONAL_BUFFERS if key in own},
        bias=bias is not None,
        dtype=torch.float32 if bias is None else bias.dtype,
    )
    layer.load_state_dict(own, assign=True)
    return layer
