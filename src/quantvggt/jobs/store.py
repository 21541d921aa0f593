"""What is finished, on disk, so that an interrupted run goes on where it stopped."""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from quantvggt.core.files import atomic_file
from quantvggt.jobs.code import code_digest

Tensors = dict[str, Tensor]


def task_of(inputs: Any, tensors: Iterable[tuple[str, Tensor]] = (), rooms: Sequence[str] = ()) -> str:
    """A text that is the same for the same inputs and code, and for no others.

    inputs: JSON-able; the order of a mapping's keys doesn't count. tensors: inputs too, by name; their values, types
    and shapes count. rooms: those whose code matters, see `code_digest`.
    """
    digest = hashlib.sha256(json.dumps([inputs, code_digest(*rooms)], sort_keys=True).encode())
    for name, tensor in tensors:
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {_checksum(tensor)}".encode())
    return digest.hexdigest()


def _checksum(tensor: Tensor) -> int:
    return zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


class Store:
    """A folder of entries, each a file that is written as a whole: JSON values, or tensors with values.

    task: see `task_of`. Entries of another task, and files that are something else, are passed over when they are read,
    and replaced one by one when they are written. prefix: what the names of the files start with.
    """

    def __init__(self, folder: str | os.PathLike[str], task: str, prefix: str = "") -> None:
        self.folder, self.task, self._prefix = Path(folder), task, prefix

    def read(self, name: str) -> Any:
        """The values in the entry of that name, None if there is none of this task."""
        kept = read_entry(self._file(name))
        return kept["values"] if kept is not None and kept["task"] == self.task else None

    def write(self, name: str, values: Any) -> None:
        """Keep JSON-able values. Raises InputError if the folder can't be written."""
        with atomic_file(self._file(name)) as temporary:
            temporary.write_text(json.dumps({"task": self.task, "values": values}))

    def read_tensors(self, name: str) -> tuple[Tensors, Any] | None:
        """The tensors in the entry of that name and the values beside them, None if there is none of this task."""
        try:
            with safe_open(self._file(name), "pt") as file:
                about = file.metadata() or {}
                if about.get("task") != self.task:
                    return None
                return {key: file.get_tensor(key) for key in file.keys()}, json.loads(about["values"])  # noqa: SIM118
        except (OSError, SafetensorError):
            return None

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor], values: Any = None) -> None:
        """Keep tensors, and JSON-able values beside them. Raises InputError if the folder can't be written."""
        whole = {key: value.contiguous() for key, value in tensors.items()}
        with atomic_file(self._file(name)) as temporary:
            save_file(whole, temporary, {"task": self.task, "values": json.dumps(values)})

    def tensors(self, name: str, make: Callable[[], tuple[Tensors, Any]]) -> tuple[Tensors, Any]:
        """What `read_tensors` gives; `make` is asked for it, once, if there is none."""
        kept = self.read_tensors(name)
        if kept is None:
            kept = make()
            self.write_tensors(name, *kept)
        return kept

    def remove(self, name: str) -> None:
        """The entry of that name goes, whoever wrote it."""
        self._file(name).unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self.folder / f"{self._prefix}{name}"


def read_entry(path: Path) -> dict[str, Any] | None:
    """An entry without tensors, of whatever task: its "task" and "values". None if the file is something else."""
    try:
        kept = json.loads(path.read_text())
        return kept if isinstance(kept["task"], str) and "values" in kept else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def discard(folder: str | os.PathLike[str], prefix: str) -> None:
    """What was kept is no longer needed: entries of whatever task go, and then the folder if it is empty.

    Entries are the .json and .safetensors files whose names start with `prefix`. All other files stay.
    """
    folder = Path(folder)
    for name in (f"{prefix}*.json", f"{prefix}*.safetensors"):
        for pattern in (name, f".{name}.*"):  # the latter were being written when killed
            for file in folder.glob(pattern):
                file.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
