"""Bit widths and granularity as one small, frozen, versioned value that travels in checkpoints and result rows."""

import re
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from quantvggt.core.errors import InputError

VERSION = 1
FLOAT_BITS = 16
ASYMMETRIC_BITS = 7
WEIGHT_BITS = range(2, 9)
ACT_BITS = (*range(2, 9), FLOAT_BITS)
INTEGER, FLOAT8 = "int", "fp8"
_SPELLING = re.compile(r"w([1-9]\d?)a([1-9]\d?)(.*)")
_GRANULARITY = re.compile(r"(-tensor)?(-static)?(-asym)?(?:-s([2-8]))?(-fp8)?")


@dataclass(frozen=True)
class Scheme:
    """How many bits weights and activations have, and how many numbers share a scale.

    Weights are symmetric with one scale per output channel. Activations by default have one symmetric scale per
    token found at run time (QuantVGGT, arXiv 2509.21302, section 3); the other choices are the ones that the paper
    compares:
    act_bits: 16 leaves activations in the model's floating type.
    per_tensor: one activation scale for the whole input instead of one per token.
    static: activation ranges from the calibration set instead of the input; per token, each position in a frame
    has its own, so the model is bound to the calibration set's image size.
    asymmetric: activation ranges need not be centred on zero. Only up to 7 bits, so that q - zero fits in int8; wider
    special tokens stay symmetric.
    special_bits: width of the activations of camera and register tokens, None for that of all others. They are
    5 of 1041 tokens at 518x392 and carry the massive values; integer units compute in 8 bits anyway.
    number: what the bits of weights and activations are, "int" or "fp8" (`core.float8`); the latter for w8a8 with plain
    activations only, and for GPUs whose fp8 units are faster than their int8.
    `dataclasses.replace` makes one from another. Raises InputError if a field, or a combination, is illegal.
    """

    weight_bits: int
    act_bits: int
    per_tensor: bool = False
    static: bool = False
    asymmetric: bool = False
    special_bits: int | None = None
    number: str = INTEGER
    version: int = VERSION

    def __post_init__(self) -> None:
        if self.version != VERSION or type(self.version) is not int:
            raise InputError(f"scheme version {self.version!r} is not supported; this release reads version {VERSION}")
        for field, allowed in (("weight_bits", WEIGHT_BITS), ("act_bits", ACT_BITS)):
            value = getattr(self, field)
            if type(value) is not int or value not in allowed:
                choices = ", ".join(map(str, allowed))
                raise InputError(f"scheme {self.name!r}: {field} is {value!r}; choose one of {choices}")
        if not all(type(flag) is bool for flag in (self.per_tensor, self.static, self.asymmetric)):
            raise InputError(f"scheme {self.name!r}: per_tensor, static and asymmetric are true or false")
        if self.special_bits is not None and (
            type(self.special_bits) is not int or self.special_bits not in WEIGHT_BITS
        ):
            raise InputError(f"scheme {self.name!r}: special_bits is {self.special_bits!r}; choose 2 to 8")
        if not self.quantizes_activations and self.granular:
            raise InputError(f"scheme {self.name!r}: float activations have no ranges; leave the suffixes out")
        if self.asymmetric and not self.asymmetric_at(self.act_bits):
            raise InputError(f"scheme {self.name!r}: asymmetric activations have at most 7 bits")
        if self.special_bits is not None and (self.per_tensor or self.static):
            raise InputError(f"scheme {self.name!r}: special tokens of their own width need dynamic per-token scales")
        if self.number not in (INTEGER, FLOAT8):
            raise InputError(f"scheme {self.name!r}: number is {self.number!r}; choose {INTEGER} or {FLOAT8}")
        if self.float8 and (self.granular or (self.weight_bits, self.act_bits) != (8, 8)):
            raise InputError(f"scheme {self.name!r}: fp8 is for w8a8 with dynamic per-token scales; use w8a8-fp8")

    @property
    def name(self) -> str:
        """Spells everything but the version: "w4a4", "w4a4-tensor-static-asym", "w4a4-s8", "w8a8-fp8"."""
        return f"w{self.weight_bits}a{self.act_bits}{self.granularity}"

    @property
    def granularity(self) -> str:
        """What follows the widths in the name: "", "-tensor-static-asym", "-s8", "-fp8"."""
        flags = {"-tensor": self.per_tensor, "-static": self.static, "-asym": self.asymmetric}
        special = "" if self.special_bits is None else f"-s{self.special_bits}"
        return "".join(word for word, on in flags.items() if on) + special + ("-fp8" if self.float8 else "")

    @property
    def quantizes_activations(self) -> bool:
        return self.act_bits != FLOAT_BITS

    @property
    def float8(self) -> bool:
        """Are weights and activations float8 instead of integers?"""
        return self.number == FLOAT8

    def asymmetric_at(self, bits: int) -> bool:
        """Whether activations of this width are asymmetric."""
        return self.asymmetric and bits <= ASYMMETRIC_BITS

    @property
    def granular(self) -> bool:
        """Whether activations differ from the plain dynamic, symmetric, per-token kind."""
        return self.per_tensor or self.static or self.asymmetric or self.special_bits is not None

    @property
    def plain(self) -> "Scheme":
        """The same numbers, activations of the plain kind."""
        return Scheme(self.weight_bits, self.act_bits, number=self.number)

    @property
    def weights_only(self) -> "Scheme":
        """Integer weights as wide, float activations."""
        return Scheme(self.weight_bits, FLOAT_BITS)

    @classmethod
    def preset(cls, name: str) -> "Scheme":
        """The preset called `name`; raises InputError with the list of presets if there is none."""
        if name not in PRESETS:
            raise InputError(f"unknown scheme {name!r}; the presets are {', '.join(PRESETS)}")
        return PRESETS[name]

    @classmethod
    def parse(cls, scheme: "str | Scheme") -> "Scheme":
        """A Scheme as it is, or one spelled "w{N}a{M}" with legal widths (every preset is) and suffixes in the order
        -tensor -static -asym -s{N} -fp8.

        Raises InputError if the spelling or a bit width is wrong.
        """
        if isinstance(scheme, Scheme):
            return scheme
        match = _SPELLING.fullmatch(scheme) if isinstance(scheme, str) else None
        if match is None:
            raise _unknown(scheme)
        return cls(int(match[1]), int(match[2])).with_granularity(match[3])

    def with_granularity(self, suffixes: str) -> "Scheme":
        """These widths, and the kind of numbers that `granularity` spells so; InputError if it never does."""
        match = _GRANULARITY.fullmatch(suffixes)
        if match is None:
            raise _unknown(f"w{self.weight_bits}a{self.act_bits}{suffixes}")
        tensor, static, asymmetric, special, float8 = match.groups()
        return replace(
            self,
            per_tensor=bool(tensor),
            static=bool(static),
            asymmetric=bool(asymmetric),
            special_bits=int(special) if special else None,
            number=FLOAT8 if float8 else INTEGER,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, the name first; fields at their default value are left out, but for the version."""
        values = {"name": self.name, **asdict(self)}
        defaults = {field.name: field.default for field in fields(self) if field.name != "version"}
        return {key: value for key, value in values.items() if value != defaults.get(key)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Scheme":
        """Inverse of `to_dict`. Raises InputError on unknown or missing keys, versions and bit widths, and a name that
        says something else than the fields.
        """
        if not isinstance(data, dict):
            raise InputError(f"a scheme must be an object with named fields, not {data!r}")
        names = {"name", *(field.name for field in fields(cls))}
        if unknown := sorted(map(str, data.keys() - names)):
            raise InputError(
                f"scheme has unknown keys {', '.join(unknown)}; it was written by another release or edited"
            )
        if missing := sorted({"name", "weight_bits", "act_bits", "version"} - data.keys()):
            raise InputError(f"scheme lacks the keys {', '.join(missing)}")
        scheme = cls(**{key: value for key, value in data.items() if key != "name"})
        if data["name"] != scheme.name:
            raise InputError(f"scheme name {data['name']!r} does not fit its fields; it must be {scheme.name!r}")
        return scheme


def _unknown(scheme: object) -> InputError:
    return InputError(f"unknown scheme {scheme!r}; write w<bits>a<bits>, for example w4a4 or w8a8-static")


PRESETS = {name: Scheme.parse(name) for name in ("w8a8", "w6a6", "w4a8", "w4a4", "w4a16", "w3a4", "w3a3")}
