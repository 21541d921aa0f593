"""Files of named tensors: their content is known before anything is allocated; reading maps, not copies."""

import json
import math
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from quantvggt.core.errors import InputError

DTYPE_CODES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn,
}  # fmt: skip
_CODES = {dtype: code for code, dtype in DTYPE_CODES.items()}
SAFETENSORS_SUFFIX = ".safetensors"
TORCH_SUFFIXES = (".pt", ".pth", ".bin")
NESTED_UNDER = ("model", "state_dict", "model_state_dict", "module")
_LEVELS = 4  # dicts in one another that are looked into
_ZIP_MAGIC = b"PK\x03\x04"
# A mapped page counts as this process's memory until the map is closed; reopening bounds how many stay.
_REOPEN_AFTER_BYTES = 256 * 2**20


class TensorInfo(NamedTuple):
    """What a tensor is, without its numbers."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def is_float(self) -> bool:
        """Numbers that mean what they are: float8 means nothing without a scale."""
        return self.dtype.is_floating_point and self.dtype.itemsize > 1


class WeightsFile(ABC):
    """infos: name -> shape and dtype of every tensor in the file at `path`."""

    path: Path
    infos: dict[str, TensorInfo]

    @abstractmethod
    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, tensor) on the CPU; each tensor is backed by the mapped file until it is copied."""


class SafetensorsFile(WeightsFile):
    """A `.safetensors` file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with safe_open(path, framework="pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
                codes = {name: part.get_dtype() for name, part in slices.items()}
                for name, code in codes.items():
                    if code not in DTYPE_CODES:
                        raise InputError(f"{path}: {name} is of type {code}, which no VGGT checkpoint uses")
                self.infos = {
                    name: TensorInfo(tuple(part.get_shape()), DTYPE_CODES[codes[name]]) for name, part in slices.items()
                }
        except SafetensorError as error:
            raise InputError(
                f"{path} is no whole safetensors file ({error}); it is truncated or damaged, fetch it again"
            ) from error
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror or error}") from error

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        names = iter(self.infos)
        name = next(names, None)
        while name is not None:
            read = 0
            with safe_open(self.path, framework="pt") as file:
                while name is not None and read < _REOPEN_AFTER_BYTES:
                    tensor = file.get_tensor(name)
                    read += tensor.nbytes
                    yield name, tensor
                    del tensor
                    name = next(names, None)


class TorchFile(WeightsFile):
    """A `.pt` written by torch.save: a state dict, or a dict that holds one under a key of `NESTED_UNDER`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._state = _state_dict(load_torch(path), path)
        self.infos = {name: TensorInfo(tuple(x.shape), x.dtype) for name, x in self._state.items()}

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._state.items()


def open_weights(path: Path) -> WeightsFile:
    """Open by suffix: .safetensors, or .pt, .pth, .bin. Raises InputError if it is none or damaged."""
    if path.suffix == SAFETENSORS_SUFFIX:
        return SafetensorsFile(path)
    if path.suffix in TORCH_SUFFIXES:
        return TorchFile(path)
    raise InputError(f"{path} is no checkpoint: name a .safetensors or .pt file, or a saved model's folder")


def load_torch(path: Path) -> Any:
    """Read a zip-format torch file without running code from it; its tensors are mapped, not copied.

    Raises InputError if it is not such a file, is damaged, or holds anything that would run code.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(len(_ZIP_MAGIC))
        if magic != _ZIP_MAGIC:
            raise InputError(
                f"{path} is not a PyTorch checkpoint, or one from before PyTorch 1.6 whose sizes cannot be "
                "checked beforehand; write it again with a current torch.save"
            )
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds Python objects beside its tensors, which would run code; it is not loaded. "
            "Ask its author for a .safetensors file"
        ) from error
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from error
    except InputError:
        raise
    except Exception as error:  # a damaged file can fail in the unpickler in any way
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"{path} is no whole PyTorch checkpoint ({reason}); it is truncated or damaged, fetch it again"
        ) from error


def is_plain(value: Any) -> bool:
    """Whether `value` is an ordinary dense CPU tensor whose numbers are all really there."""
    return (
        isinstance(value, Tensor)
        and value.device.type == "cpu"
        and value.layout is torch.strided
        and not value.is_quantized
        and value.untyped_storage().nbytes() >= value.numel() * value.element_size()
    )


def _state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    for _ in range(_LEVELS):
        inner = (content.get(key) for key in NESTED_UNDER) if isinstance(content, Mapping) else ()
        content = next((value for value in inner if isinstance(value, Mapping)), content)
    if not isinstance(content, Mapping) or not content:
        raise InputError(f"{path} holds no state dict (names and tensors); name the checkpoint of a VGGT")
    for name, value in content.items():
        if not isinstance(name, str) or not is_plain(value):
            raise InputError(f"{path}: {name!r} is not an ordinary tensor; name the checkpoint of a VGGT")
    return {name: value.detach() for name, value in content.items()}


def write_safetensors(
    path: Path, infos: Mapping[str, TensorInfo], tensor: Callable[[str], Tensor], metadata: Mapping[str, str]
) -> None:
    """Write one tensor after the other, so that no second copy of a model is ever in memory.

    tensor(name) must return the shape and dtype of infos[name]. Wide dtypes come first, so all are aligned.
    """
    names, start = _begin(infos, metadata)
    with path.open("wb") as file:
        file.write(start)
        for name in names:
            data = tensor(name).detach().cpu().contiguous()
            assert TensorInfo(tuple(data.shape), data.dtype) == infos[name], name
            file.write(data.flatten().view(torch.uint8).numpy().data)


def safetensors_bytes(infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> int:
    """The size of the file that `write_safetensors` writes."""
    return len(_begin(infos, metadata)[1]) + sum(info.nbytes for info in infos.values())


def _begin(infos: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> tuple[list[str], bytes]:
    """The order of the tensors, and what stands in front of them."""
    names = sorted(infos, key=lambda name: (-infos[name].dtype.itemsize, name))
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        start, end = end, end + infos[name].nbytes
        shape, dtype = infos[name]
        header[name] = {"dtype": _CODES[dtype], "shape": shape, "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    return names, len(encoded).to_bytes(8, "little") + encoded
