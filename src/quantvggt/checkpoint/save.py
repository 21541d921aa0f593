"""Write a model as a checkpoint folder; docs/format.md is the specification."""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from quantvggt.checkpoint.config import (
    CONFIG_NAME,
    FLOAT_DTYPES,
    WEIGHTS_NAME,
    CheckpointConfig,
    SiteRecord,
    dtype_name,
    encode_config,
    is_fixed,
    packed_infos,
    read_config,
    write_config,
)
from quantvggt.checkpoint.weights import TensorInfo, safetensors_bytes, write_safetensors
from quantvggt.core.errors import InputError
from quantvggt.core.files import atomic_folder
from quantvggt.core.packing import MEMORY_BITS, repack
from quantvggt.models import Model
from quantvggt.models.sites import all_sites
from quantvggt.nn.quant_weight import QuantWeight
from quantvggt.nn.tensors import optional_shapes

_METADATA = {"format": "pt"}


def save(
    model: Model,
    folder: str | os.PathLike[str],
    overwrite: bool = False,
    float_dtype: torch.dtype | None = None,
) -> Path:
    """Write `folder`/config.json and `folder`/model.safetensors, both or neither; returns the folder.

    overwrite: replace a checkpoint that is already there (other files in its folder stay). A folder that
        holds something else is never touched.
    float_dtype: how numbers that are not quantized are stored. None keeps every number exactly: in float16
        or bfloat16 if that holds them all, otherwise in the model's own dtype. Loading gives the model's own
        dtype back in any case.

    Tensors are written one by one, so memory grows by one tensor only.
    Raises InputError if the folder may not be replaced or written, or the model cannot be stored.
    """
    path = Path(os.path.abspath(Path(folder).expanduser()))
    kept = _entries_to_keep(path, overwrite)
    records = _records(model)
    if (model.quantization is None) != (not records):
        raise InputError("model.quantization must be set exactly if the model has quantized layers")

    state = model.state_dict()
    floats = {name for name in state if not is_fixed(name, records)}
    held = _held_dtype(state[name] for name in floats)
    stored = _storage_dtype([state[name] for name in floats], held, float_dtype)
    infos = _infos(state, records, stored)
    state |= {f"{name}.weight_shape": torch.tensor(record.shape) for name, record in records.items() if record.packed}

    def written(name: str) -> Tensor:
        if name in floats:
            return _cast(name, state[name], stored)
        packed = records.get(name.removesuffix(".weight_packed"))
        return state[name] if packed is None else _narrowed(name, state[name], packed)

    config = CheckpointConfig(model.config, held, model.quantization, records)
    try:
        with atomic_folder(path) as temporary:
            for entry in kept:
                copy = shutil.copytree if entry.is_dir() and not entry.is_symlink() else shutil.copy2
                copy(entry, temporary / entry.name)
            write_config(config, temporary)
            write_safetensors(temporary / WEIGHTS_NAME, infos, written, _METADATA)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}; nothing was changed") from error
    return path


def checkpoint_bytes(model: Model, float_dtype: torch.dtype) -> int:
    """The size of the two files that `save` would write, floats in `float_dtype`; exact. The model may lie on the meta
    device.
    """
    records, state = _records(model), model.state_dict()
    held = _held_dtype(value for name, value in state.items() if not is_fixed(name, records))
    config = CheckpointConfig(model.config, held, model.quantization, records)
    return len(encode_config(config)) + safetensors_bytes(_infos(state, records, float_dtype), _METADATA)


def _records(model: Model) -> dict[str, SiteRecord]:
    return {name: _record(site) for name, site in all_sites(model).items() if isinstance(site, QuantWeight)}


def _infos(
    state: Mapping[str, Tensor], records: Mapping[str, SiteRecord], floats: torch.dtype
) -> dict[str, TensorInfo]:
    """Shape and stored type of every tensor of a file."""
    infos = {
        name: TensorInfo(tuple(value.shape), value.dtype if is_fixed(name, records) else floats)
        for name, value in state.items()
    }
    return infos | packed_infos(records)


def _entries_to_keep(path: Path, overwrite: bool) -> list[Path]:
    """What else lies in a checkpoint folder that may be replaced. Raises InputError if it may not."""
    if path.is_file():
        raise InputError(f"cannot save to {path}: it is a file; name a folder")
    entries = list(path.iterdir()) if path.is_dir() else []
    if not entries:
        return []
    if read_config(path / CONFIG_NAME) is None:
        raise InputError(f"cannot save to {path}: it holds something that is no checkpoint; name a new folder")
    if not overwrite:
        raise InputError(f"{path} already holds a checkpoint; pass overwrite=True or name a new folder")
    return [entry for entry in entries if entry.name not in (CONFIG_NAME, WEIGHTS_NAME)]


def _record(site: QuantWeight) -> SiteRecord:
    return SiteRecord(site.scheme, (site.out_features, site.in_features), optional_shapes(dict(site.named_buffers())))


def _held_dtype(floats: Iterable[Tensor]) -> torch.dtype:
    dtypes = {tensor.dtype for tensor in floats}
    if len(dtypes) > 1 or not dtypes <= set(FLOAT_DTYPES.values()):
        names = ", ".join(sorted(map(dtype_name, dtypes)))
        raise InputError(
            f"cannot save a model of mixed types ({names}); load it in one, or convert it with model.to(torch.float32)"
        )
    return dtypes.pop()


def _storage_dtype(floats: list[Tensor], held: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    if any(tensor.is_meta for tensor in floats):
        raise InputError("cannot save a model on the meta device: it has no numbers")
    if wanted is not None:
        if wanted not in FLOAT_DTYPES.values():
            raise InputError(f"float_dtype must be one of {', '.join(FLOAT_DTYPES)}, got {wanted}")
        return wanted
    for narrow in (torch.float16, torch.bfloat16):
        if narrow.itemsize < held.itemsize and all(torch.equal(x.to(narrow).to(held), x) for x in floats):
            return narrow
    return held


def _narrowed(name: str, words: Tensor, record: SiteRecord) -> Tensor:
    try:
        return repack(words, record.shape[1], MEMORY_BITS, record.packed_bits)
    except InputError as error:
        raise InputError(f"{name}: {error}; quantize this layer again") from error


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    result = tensor.detach().to(dtype)
    if not torch.equal(result.isfinite(), tensor.isfinite()):
        raise InputError(f"{name} holds numbers beyond the range of {dtype_name(dtype)}; choose bfloat16")
    return result
