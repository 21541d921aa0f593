"""Bit widths as one small, frozen, versioned value that travels in checkpoints and result rows."""

import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from quantvggt.core.errors import InputError

VERSION = 1
FLOAT_BITS = 16
WEIGHT_BITS = range(2, 9)
ACT_BITS = (*range(2, 9), FLOAT_BITS)


@dataclass(frozen=True)
class Scheme:
    """How many bits weights and activations have.

    Version 1 fixes the granularity: symmetric everywhere, weights with one scale per output channel,
    activations with one scale per token found at run time (QuantVGGT, arXiv 2509.21302, section 3).
    `act_bits == 16` leaves activations in the model's floating type. Raises InputError if a field is illegal.
    """

    name: str
    weight_bits: int
    act_bits: int
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.version != VERSION or type(self.version) is not int:
            raise InputError(f"scheme version {self.version!r} is not supported; this release reads version {VERSION}")
        for field, allowed in (("weight_bits", WEIGHT_BITS), ("act_bits", ACT_BITS)):
            value = getattr(self, field)
            if type(value) is not int or value not in allowed:
                choices = ", ".join(map(str, allowed))
                raise InputError(f"scheme {self.name!r}: {field} is {value!r}; choose one of {choices}")
        expected = f"w{self.weight_bits}a{self.act_bits}"
        if self.name != expected:
            raise InputError(f"scheme name {self.name!r} does not fit its bits; it must be {expected!r}")

    @property
    def quantizes_activations(self) -> bool:
        return self.act_bits != FLOAT_BITS

    @classmethod
    def preset(cls, name: str) -> "Scheme":
        """The preset called `name`; raises InputError with the list of presets if there is none."""
        if name not in PRESETS:
            raise InputError(f"unknown scheme {name!r}; the presets are {', '.join(PRESETS)}")
        return PRESETS[name]

    @classmethod
    def parse(cls, scheme: "str | Scheme") -> "Scheme":
        """A Scheme as it is, or one spelled "w{N}a{M}" with legal bit widths (every preset is).

        Raises InputError if the spelling or a bit width is wrong.
        """
        if isinstance(scheme, Scheme):
            return scheme
        match = re.fullmatch(r"w([1-9]\d?)a([1-9]\d?)", scheme) if isinstance(scheme, str) else None
        if match is None:
            raise InputError(f"unknown scheme {scheme!r}; write w<bits>a<bits>, for example w4a4 or w8a8")
        return cls(scheme, int(match[1]), int(match[2]))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Scheme":
        """Inverse of `to_dict`. Raises InputError on unknown or missing keys, versions and bit widths."""
        if not isinstance(data, dict):
            raise InputError(f"a scheme must be an object with named fields, not {data!r}")
        names = {field.name for field in fields(cls)}
        if unknown := sorted(map(str, data.keys() - names)):
            raise InputError(
                f"scheme has unknown keys {', '.join(unknown)}; it was written by another release or edited"
            )
        if missing := sorted(names - data.keys()):
            raise InputError(f"scheme lacks the keys {', '.join(missing)}")
        return cls(**data)


PRESETS = {name: Scheme.parse(name) for name in ("w8a8", "w6a6", "w4a8", "w4a4", "w4a16", "w3a4", "w3a3")}
