"""How a model was quantized: the record that travels with it and into its checkpoint."""

from dataclasses import dataclass, field, fields
from typing import Any

from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme


@dataclass(frozen=True)
class Quantization:
    """scheme: bit widths; method: how the numbers were found, with its settings; calibration: what it saw."""

    scheme: Scheme
    method: str
    settings: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form; `from_dict` reads it back."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {**values, "scheme": self.scheme.to_dict()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Quantization":
        """Raises InputError on unknown or missing keys."""
        known = {field.name for field in fields(cls)}
        if set(values) != known:
            raise InputError(f"quantization record must have the keys {sorted(known)}, got {sorted(values)}")
        return cls(**{**values, "scheme": Scheme.from_dict(values["scheme"])})
