"""`config.json` of a checkpoint folder: read strictly, written plainly. docs/format.md specifies it."""

import json
from collections.abc import Container
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from quantvggt.checkpoint.compressed_tensors import quantization_config
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.models.config import VGGTConfig
from quantvggt.models.quantization import Quantization

FORMAT = "quantvggt"
FORMAT_VERSION = 1
CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
MAX_CONFIG_BYTES = 16 * 2**20

FLOAT_DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}

_REQUIRED = {"format", "format_version", "model"}
_OPTIONAL = {"quantvggt_version", "torch_version", "dtype", "quantization", "sites", "quantization_config"}


@dataclass(frozen=True)
class SiteRecord:
    """One quantized linear layer. shape: (out_features, in_features) of its weight."""

    weight_bits: int
    act_bits: int
    shape: tuple[int, int]
    rotation: bool
    smoothing: bool
    input_clip: bool

    @property
    def scheme(self) -> Scheme:
        """This layer's own bit widths. Raises InputError if they are illegal."""
        return Scheme(f"w{self.weight_bits}a{self.act_bits}", self.weight_bits, self.act_bits)

    @property
    def packed(self) -> bool:
        """Up to 4 bits: eight values in one int32; otherwise one int8 each."""
        return self.weight_bits <= 4

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "SiteRecord":
        """Raises InputError, TypeError or ValueError if something is missing, unknown or wrong."""
        out_features, in_features = values["shape"]
        record = cls(**{**values, "shape": (out_features, in_features)})
        if not all(type(size) is int and size > 0 for size in record.shape):
            raise ValueError(f"shape must be two positive whole numbers, got {values['shape']}")
        if not all(type(flag) is bool for flag in (record.rotation, record.smoothing, record.input_clip)):
            raise ValueError("rotation, smoothing and input_clip must be true or false")
        _ = record.scheme  # its constructor refuses illegal bit widths
        return record


@dataclass(frozen=True)
class CheckpointConfig:
    """What config.json says. dtype: the dtype of the model's unquantized numbers once loaded."""

    model: VGGTConfig
    dtype: torch.dtype = torch.float32
    quantization: Quantization | None = None
    sites: dict[str, SiteRecord] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, with the versions of the software that writes it."""
        values: dict[str, Any] = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "quantvggt_version": _own_version(),
            "torch_version": str(torch.__version__),
            "dtype": dtype_name(self.dtype),
            "model": self.model.to_dict(),
        }
        if self.quantization is not None:
            values["quantization"] = self.quantization.to_dict()
            values["sites"] = {name: asdict(site) for name, site in self.sites.items()}
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
            model = VGGTConfig.from_dict(_object(values["model"], "model"))
            record = values.get("quantization")
            quantization = None if record is None else _quantization(_object(record, "quantization"))
            sites = {
                name: SiteRecord.from_dict(_object(site, name))
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
    (folder / CONFIG_NAME).write_text(json.dumps(config.to_dict(), indent=1) + "\n", encoding="utf-8")


def read_config(path: Path) -> CheckpointConfig | None:
    """The config at `path`; None if there is no file or it is valid JSON of somebody else's making.

    Raises InputError if it cannot be read, is not JSON, or is ours but wrong.
    """
    if not path.is_file():
        return None
    try:
        if path.stat().st_size > MAX_CONFIG_BYTES:
            raise InputError(f"{path}: larger than {MAX_CONFIG_BYTES} bytes; this is no checkpoint config")
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not valid JSON ({error}); it is damaged, fetch it again") from error
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        return None
    return CheckpointConfig.from_dict(values, path)


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
