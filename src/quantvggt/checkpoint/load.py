"""Load a model, in full precision or quantized, from wherever it lies, without a second copy in memory."""

import os
import warnings
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from quantvggt.checkpoint.config import (
    CONFIG_NAME,
    FLOAT_DTYPES,
    CheckpointConfig,
    SiteRecord,
    dtype_name,
    is_fixed,
    packed_infos,
    read_config,
)
from quantvggt.checkpoint.layouts import shared_prefixes, unprefixed, without_aliases
from quantvggt.checkpoint.locate import locate
from quantvggt.checkpoint.packaged import open_any
from quantvggt.checkpoint.validate import check_infos, check_values
from quantvggt.checkpoint.weights import TensorInfo, WeightsFile
from quantvggt.core.errors import InputError
from quantvggt.core.packing import MEMORY_BITS, repack
from quantvggt.kernels import ops, registry  # noqa: F401 - the ops register themselves
from quantvggt.kernels.contract import Float8Linear, examples
from quantvggt.models import Model, ModelConfig, VGGTConfig, build, mixed
from quantvggt.models.family import find_family, recognise
from quantvggt.models.sites import all_sites
from quantvggt.nn.empty import empty_layer

_OUR_REMEDY = "the files do not belong together or are damaged, fetch them again"
_BARE_REMEDY = (
    f"without a {CONFIG_NAME} of quantvggt's beside it only published sizes can be recognised (VGGT-1B, DA3-SMALL, "
    "...): put one there (docs/format.md says how)"
)


Precision = torch.dtype | Literal["auto", "mixed"]


def load(
    name_or_path: str | os.PathLike[str], dtype: Precision | None = None, device: str | torch.device = "cpu"
) -> Model:
    """Load a model for inference.

    name_or_path: a name in `packaged.NAMES` (come with the package); a file .safetensors, .pt, .pth or
        .bin; a folder with one of `checkpoint.hub.WEIGHTS_NAMES`, an index of several files among them; a Hugging
        Face hub id such as "facebook/VGGT-1B". A config.json in our format beside the weights says what they are;
        without one they must be a published size of a family that we know. A prefix that all names share is taken off
        where that makes them fit.
    dtype: of everything that is not quantized. None: as when it was saved; float32 for published weights. "mixed":
        products in bfloat16, sums and cameras in float32 (`models.mixed`), for inference. "auto": mixed where that is
        quick, on GPUs and CPUs with a native bfloat16 kernel, else None.
    device: where the weights go.

    Numbers that need no conversion stay mapped from the file, so don't change the file in place meanwhile. A GPU gets
    tensor by tensor as it is to lie there.
    Raises InputError, in one line, if there is no such thing, no network, no memory, or the content is wrong.
    """
    device = _checked_device(device)
    path = locate(name_or_path)
    weights = open_any(path)
    config = read_config(path.parent / CONFIG_NAME)
    _check_dtype(dtype)
    if config is None:
        config, remedy = CheckpointConfig(infer_config(weights.infos)), _BARE_REMEDY
    else:
        remedy = _OUR_REMEDY
        _check_depth(config.model, weights)
    model = _empty_model(config, weights)
    expected = _expected(model, config.sites)
    weights = without_aliases(unprefixed(weights, expected), model.aliases)
    fixed = {name for name in expected if is_fixed(name, config.sites)}
    check_infos(path, weights.infos, expected, fixed, remedy)
    types = _types(model, config, expected, dtype, device)
    _fill(model, weights, config.sites, fixed, types, device)
    licence = find_family(config.model.family).licence(config.model)
    if licence is not None:
        warnings.warn(f"weights of this size are published under {licence}", stacklevel=2)
    model.quantization = config.quantization
    _warn_of_float8(model, config)
    return model.eval()


def outline(
    name_or_path: str | os.PathLike[str], dtype: Precision | None = None, device: str | torch.device = "cpu"
) -> Model:
    """The model that `load` would give, without its numbers. Its weights must be here, but they aren't read."""
    _check_dtype(dtype)
    path = locate(name_or_path)
    weights = open_any(path)
    config = read_config(path.parent / CONFIG_NAME) or CheckpointConfig(infer_config(weights.infos))
    model = _empty_model(config, weights)
    types = _types(model, config, _expected(model, config.sites), dtype, torch.device(device))
    empty = {name: torch.empty_like(value, dtype=types.get(name)) for name, value in model.state_dict().items()}
    model.load_state_dict(empty, assign=True)
    model.quantization = config.quantization
    return model


def _warn_of_float8(model: Model, config: CheckpointConfig) -> None:
    own = next((site.scheme.name for site in config.sites.values() if site.scheme.float8), None)
    if own is None:
        return
    dtype = dtype_name(model.products or model.dtype)
    step = examples(model.device)[Float8Linear.OP].get(dtype)
    if step is None or registry.choose(step).name == "reference":
        warnings.warn(
            f"scheme {own} is for NVIDIA GPUs with fp8 (Ada, Hopper, Blackwell) and bfloat16; on {model.device} in "
            f"{dtype} it runs slower than the float model (quantvggt doctor says why)",
            stacklevel=3,
        )


def _check_dtype(dtype: Precision | None) -> None:
    if dtype not in (None, "auto", "mixed", *FLOAT_DTYPES.values()):
        raise InputError(f"dtype must be auto, mixed, or one of {', '.join(FLOAT_DTYPES)}, got {dtype}")


def _types(
    model: Model,
    config: CheckpointConfig,
    expected: Mapping[str, TensorInfo],
    dtype: Precision | None,
    device: torch.device,
) -> dict[str, torch.dtype]:
    """What `load` brings numbers to, of those that aren't held as they are stored; mixes the model's precision."""
    narrow = set[str]()
    if dtype == "mixed" or (dtype == "auto" and model.mixes and mixed.is_quick(device)):
        dtype, narrow = torch.float32, model.mix(mixed.PRODUCTS)
    wide = dtype if isinstance(dtype, torch.dtype) else config.dtype
    free = (name for name in expected if not is_fixed(name, config.sites))
    return {name: mixed.PRODUCTS if name in narrow else wide for name in free}


def infer_config(infos: dict[str, TensorInfo]) -> ModelConfig:
    """Of published weights of a family that we know, whatever prefix all names share; VGGT-1B if there is none, whose
    missing tensors tell more."""
    for prefix in shared_prefixes(infos):
        config = recognise({name.removeprefix(prefix): info.shape for name, info in infos.items()})
        if config is not None:
            return config
    return VGGTConfig.vggt_1b()


def _check_depth(config: ModelConfig, weights: WeightsFile) -> None:
    """Every block has tensors, so a config that asks for more blocks than there are is refused unbuilt."""
    if config.blocks > len(weights.infos):
        raise InputError(
            f"{weights.path.parent / CONFIG_NAME} asks for more blocks than {weights.path.name} has tensors; "
            f"{_OUR_REMEDY}"
        )


def _empty_model(config: CheckpointConfig, weights: WeightsFile) -> Model:
    """The model without memory behind its weights."""
    config_path = weights.path.parent / CONFIG_NAME
    try:
        with torch.device("meta"):
            model = build(config.model)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{config_path}: these sizes make no model ({error}); {_OUR_REMEDY}") from error
    sites = all_sites(model)
    for name, record in config.sites.items():
        if name not in sites:
            raise InputError(f"{config_path}: {name!r} is no quantizable layer of this model; {_OUR_REMEDY}")
        try:
            layer = empty_layer(sites[name], record.scheme, record.optional, "meta")
        except InputError as error:
            raise InputError(f"{config_path}: {name}: {error}") from error
        shape = (layer.out_features, layer.in_features)
        if shape != record.shape:
            raise InputError(
                f"{config_path}: {name} has shape {list(record.shape)}, but the model's is {list(shape)}; {_OUR_REMEDY}"
            )
        model.set_submodule(name, layer)
    return model


def _expected(model: Model, sites: dict[str, SiteRecord]) -> dict[str, TensorInfo]:
    expected = {name: TensorInfo(tuple(x.shape), x.dtype) for name, x in model.state_dict().items()}
    return expected | packed_infos(sites)


def _fill(
    model: Model,
    weights: WeightsFile,
    sites: dict[str, SiteRecord],
    fixed: set[str],
    types: Mapping[str, torch.dtype],
    device: torch.device,
) -> None:
    state: dict[str, Tensor] = {}
    for name, tensor in weights.tensors():
        site, _, local = name.rpartition(".")
        if site in sites and local == "weight_shape":
            if tuple(tensor.tolist()) != sites[site].shape:
                raise InputError(
                    f"{weights.path}: {name} is {tensor.tolist()}, "
                    f"but {CONFIG_NAME} says {list(sites[site].shape)}; {_OUR_REMEDY}"
                )
            continue
        if site in sites and local == "weight_packed":
            tensor = repack(tensor, sites[site].shape[1], sites[site].packed_bits, MEMORY_BITS)
        if name in fixed:
            check_values(weights.path, name, tensor)
        try:
            state[name] = tensor.to(device, types.get(name, tensor.dtype), memory_format=_layout(tensor, device))
        except torch.OutOfMemoryError as error:
            gigabytes = sum(value.nbytes for value in weights.infos.values()) / 1e9
            raise InputError(
                f"{weights.path}: its {gigabytes:.1f} GB don't fit into what is free of {device}'s memory; end what "
                "else runs there, use a model of fewer bits, or the CPU (--device cpu)"
            ) from error
    model.load_state_dict(state, assign=True)


def _layout(tensor: Tensor, device: torch.device) -> torch.memory_format:
    """A GPU's convolutions read weights as the heads' maps lie, and would turn others at each call; a CPU's have an
    order of their own."""
    return torch.preserve_format if tensor.ndim != 4 or device.type == "cpu" else torch.channels_last


def _checked_device(device: str | torch.device) -> torch.device:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"device {str(device)!r} cannot be used here ({reason}); use cpu") from error
    return torch.device(device)
