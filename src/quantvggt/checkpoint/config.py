"""`config.json` of a checkpoint folder: read strictly, written plainly. docs/format.md specifies it."""

import json
from collections.abc import Container, Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from quantvggt.checkpoint.compressed_tensors import quantization_config
from quantvggt.checkpoint.weights import TensorInfo
from quantvggt.core.errors import InputError
from quantvggt.core.files import read_json
from quantvggt.core.packing import MEMORY_BITS, packed_width
from quantvggt.core.scheme import Scheme
from quantvggt.models import ModelConfig
from quantvggt.models.family import find_family
from quantvggt.models.quantization import Quantization
from quantvggt.nn.tensors import FLAGS, OPTIONAL

FORMAT = "quantvggt"
FORMAT_VERSION = 3
INTEGERS_VERSION = 2  # of what is written where no layer is float8: older releases read it
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
MAX_CONFIG_BYTES = 16 * 2**20
DEFAULT_FAMILY = "vggt"  # of files that name none

FLOAT_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}

_REQUIRED = {"format", "format_version", "model"}
_OPTIONAL = {"quantvggt_version", "torch_version", "family", "dtype", "quantization", "sites", "quantization_config"}


@dataclass(frozen=True)
class SiteRecord:
    """One quantized linear layer.

    scheme: its own bit widths and granularity; shape: (out_features, in_features) of its weight;
    optional: shapes of its tensors in `nn.tensors.OPTIONAL`; version: of the format of the file that it lies in.
    """

    scheme: Scheme
    shape: tuple[int, int]
    optional: dict[str, tuple[int, ...]] = field(default_factory=dict)
    version: int = FORMAT_VERSION

    @property
    def packed(self) -> bool:
        """Up to 4 bits: side by side in int32; otherwise one int8 each."""
        return self.scheme.weight_bits <= MEMORY_BITS

    @property
    def packed_bits(self) -> int:
        """How wide a packed number is in the file; version 1 knew no narrower field than 4 bits."""
        return MEMORY_BITS if self.version == 1 else self.scheme.weight_bits

    @property
    def packed_infos(self) -> dict[str, TensorInfo]:
        """What lies in the file in place of a packed weight, or beside it."""
        if not self.packed:
            return {}
        rows, k = self.shape
        words = TensorInfo((rows, packed_width(k, self.packed_bits)), torch.int32)
        return {"weight_packed": words, "weight_shape": TensorInfo((2,), torch.int64)}

    def to_dict(self) -> dict[str, Any]:
        """JSON-able; `granularity` and `tensors` only where there is something to say."""
        values: dict[str, Any] = {"weight_bits": self.scheme.weight_bits, "act_bits": self.scheme.act_bits}
        values |= {"shape": list(self.shape)} | {flag: tensor.name in self.optional for flag, tensor in FLAGS.items()}
        if self.scheme.granularity:
            values["granularity"] = self.scheme.granularity
        if shaped := {name: list(shape) for name, shape in self.optional.items() if OPTIONAL[name].flag is None}:
            values["tensors"] = shaped
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any], version: int) -> "SiteRecord":
        """Raises InputError, TypeError, ValueError or KeyError if something is missing, unknown or wrong."""
        rest = dict(values)
        weight_bits, act_bits, shape = rest.pop("weight_bits"), rest.pop("act_bits"), rest.pop("shape")
        flags = {flag: rest.pop(flag) for flag in FLAGS}
        granularity, tensors = rest.pop("granularity", ""), _object(rest.pop("tensors", {}), "tensors")
        if rest:
            raise ValueError(f"unknown keys {sorted(rest)}")
        if not all(type(flag) is bool for flag in flags.values()):
            raise ValueError(f"{', '.join(FLAGS)} must be true or false")
        if (
            not isinstance(granularity, str)
            or granularity[:1] not in ("", "-")
            or any(name not in OPTIONAL or OPTIONAL[name].flag for name in tensors)
        ):
            raise ValueError("granularity must be text like '-static', and tensors name optional tensors")
        out_features, in_features = _shape(shape, 2)
        optional = {tensor.name: tensor.shape({"K": in_features}) for flag, tensor in FLAGS.items() if flags[flag]}
        optional |= {name: _shape(sizes, len(OPTIONAL[name].sizes)) for name, sizes in tensors.items()}
        scheme = Scheme(weight_bits, act_bits).with_granularity(granularity)
        return cls(scheme, (out_features, in_features), optional, version)


def _shape(sizes: Any, dimensions: int) -> tuple[int, ...]:
    legal = isinstance(sizes, list | tuple) and all(type(size) is int and size > 0 for size in sizes)
    if not legal or len(sizes) != dimensions:
        raise ValueError(f"shape must be {('one', 'two')[dimensions - 1]} positive whole numbers, got {sizes!r}")
    return tuple(sizes)


@dataclass(frozen=True)
class CheckpointConfig:
    """What config.json says. dtype: the dtype of the model's unquantized numbers once loaded."""

    model: ModelConfig
    dtype: torch.dtype = torch.float32
    quantization: Quantization | None = None
    sites: dict[str, SiteRecord] = field(default_factory=dict)

    @property
    def format_version(self) -> int:
        """The lowest that has words for all of it."""
        return FORMAT_VERSION if any(site.scheme.float8 for site in self.sites.values()) else INTEGERS_VERSION

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, with the versions of the software that writes it."""
        values: dict[str, Any] = {
            "format": FORMAT,
            "format_version": self.format_version,
            "quantvggt_version": _own_version(),
            "torch_version": str(torch.__version__),
            "dtype": dtype_name(self.dtype),
            "model": self.model.to_dict(),
        }
        if self.model.family != DEFAULT_FAMILY:
            values["family"] = self.model.family
        if self.quantization is not None:
            values["quantization"] = self.quantization.to_dict()
            values["sites"] = {name: site.to_dict() for name, site in self.sites.items()}
            values["quantization_config"] = quantization_config(self.sites)
        return values

    @classmethod
    def from_dict(cls, values: dict[str, Any], where: Path) -> "CheckpointConfig":
        """Raises InputError, naming `where`, on a newer version, unknown or missing keys, bad values."""
        format_version = values.get("format_version")
        if type(format_version) is not int or format_version < 1:
            raise InputError(f"{where}: format_version must be a whole number from 1, got {format_version!r}")
        if format_version > FORMAT_VERSION:
            raise InputError(
                f"{where}: format version {format_version} is newer than the {FORMAT_VERSION} "
                "that this quantvggt reads; upgrade quantvggt"
            )
        missing = _REQUIRED - set(values)
        unknown = set(values) - _REQUIRED - _OPTIONAL
        if missing or unknown:
            raise InputError(f"{where}: missing keys {sorted(missing)}, unknown keys {sorted(unknown)}")
        dtype = values.get("dtype", "float32")
        if not isinstance(dtype, str) or dtype not in FLOAT_DTYPES:
            raise InputError(f"{where}: dtype must be one of {', '.join(FLOAT_DTYPES)}, got {dtype!r}")
        try:
            family = find_family(values.get("family", DEFAULT_FAMILY))
            model = family.config.from_dict(_object(values["model"], "model"))
            record = values.get("quantization")
            quantization = None if record is None else _quantization(_object(record, "quantization"))
            sites = {
                name: SiteRecord.from_dict(_object(site, name), format_version)
                for name, site in _object(values.get("sites", {}), "sites").items()
            }
        except (InputError, TypeError, ValueError, KeyError) as error:
            raise InputError(f"{where}: {error}; the file is damaged or was edited by hand") from error
        if (quantization is None) != (not sites):
            raise InputError(f"{where}: 'quantization' and 'sites' must be given together")
        return cls(model, FLOAT_DTYPES[dtype], quantization, sites)


def _quantization(values: dict[str, Any]) -> Quantization:
    for name in ("scheme", "settings", "calibration"):
        _object(values.get(name), name)
    if not isinstance(values.get("method"), str):
        raise ValueError(f"'method' must be a name, got {values.get('method')!r}")
    return Quantization.from_dict(values)


def write_config(config: CheckpointConfig, folder: Path) -> None:
    """Write `config.json` into `folder`."""
    (folder / CONFIG_NAME).write_bytes(encode_config(config))


def encode_config(config: CheckpointConfig) -> bytes:
    """What `config.json` holds."""
    return (json.dumps(config.to_dict(), indent=1) + "\n").encode()


def read_config(path: Path) -> CheckpointConfig | None:
    """The config at `path`; None if there is no file or it is valid JSON of somebody else's making.

    Raises InputError if it cannot be read, is not JSON, or is ours but wrong.
    """
    if not path.is_file():
        return None
    values = read_json(path, MAX_CONFIG_BYTES)
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        return None
    return CheckpointConfig.from_dict(values, path)


def packed_infos(sites: Mapping[str, SiteRecord]) -> dict[str, TensorInfo]:
    """Name -> shape and type of all tensors that lie in a file otherwise than in memory, or only there."""
    return {f"{site}.{name}": info for site, record in sites.items() for name, info in record.packed_infos.items()}


def is_fixed(name: str, sites: Container[str]) -> bool:
    """Whether the format fixes the dtype of tensor `name`: all of a quantized layer but its bias."""
    site, _, local = name.rpartition(".")
    return site in sites and local != "bias"


def dtype_name(dtype: torch.dtype) -> str:
    """ "float32" for torch.float32, and so on."""
    return str(dtype).removeprefix("torch.")


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name!r} must be a JSON object")
    return value


def _own_version() -> str:
    try:
        return version("quantvggt")
    except PackageNotFoundError:
        return "unknown"
