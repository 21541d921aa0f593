"""Quantization methods by name, one file each."""

from dataclasses import fields
from typing import Any, get_args

from quantvggt.calibrate.methods.awq import AWQ
from quantvggt.calibrate.methods.barq import Barq1
from quantvggt.calibrate.methods.barq2 import Barq2
from quantvggt.calibrate.methods.base import Method
from quantvggt.calibrate.methods.brecq import BRECQ
from quantvggt.calibrate.methods.dopqvit import DopQViT
from quantvggt.calibrate.methods.dsfq import DSFQ, DSFQLearned
from quantvggt.calibrate.methods.flatquant import FlatQuant
from quantvggt.calibrate.methods.gptq import GPTQ
from quantvggt.calibrate.methods.qdrop import QDrop
from quantvggt.calibrate.methods.quarot import QuaRot
from quantvggt.calibrate.methods.repqvit import RepQViT
from quantvggt.calibrate.methods.rtn import RTN
from quantvggt.calibrate.methods.smoothquant import SmoothQuant
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme

METHODS: dict[str, type[Method]] = {
    method.name: method
    for method in (
        RTN,
        DSFQ,
        DSFQLearned,
        FlatQuant,
        BRECQ,
        QDrop,
        SmoothQuant,
        GPTQ,
        QuaRot,
        RepQViT,
        AWQ,
        DopQViT,
        Barq1,
        Barq2,
    )
}

ALIASES = {"best": Barq2.name}
"""The newest version of our own method. What was made with it is recorded by the version's own name, so that a result
can be repeated when there is a newer one."""

__all__ = ["ALIASES", "METHODS", "Method", "find_method", "make_method", "needs_clips", "require_numbers"]


def find_method(name: str) -> type[Method]:
    """The class of method `name`, or of what it is an alias of; raises InputError if there is none."""
    own = ALIASES.get(name, name)
    if own not in METHODS:
        raise InputError(f"unknown method {name!r}; use one of: {', '.join([*ALIASES, *METHODS])}")
    return METHODS[own]


def needs_clips(method: Method | type[Method], *schemes: str | Scheme | None) -> bool:
    """Whether to quantize by `method` takes a calibration set, where layers have any of `schemes`."""
    return method.needs_calibration or any(Scheme.parse(scheme).static for scheme in schemes if scheme is not None)


def require_numbers(method: Method | type[Method], *schemes: str | Scheme | None) -> None:
    """Raises InputError if `method` can't round to the numbers of one of `schemes`."""
    float8 = next((each for each in (Scheme.parse(one) for one in schemes if one is not None) if each.float8), None)
    if float8 is not None and not method.takes_float8:
        able = " or ".join(name for name, each in METHODS.items() if each.takes_float8)
        raise InputError(f"method {method.name} rounds to integers, which {float8.name} hasn't; use {able}")


def make_method(name: str, settings: dict[str, Any] | None = None, seed: int = 0) -> Method:
    """Method `name` with its settings; `seed` goes to a method that has randomness.

    Raises InputError if the method or a setting is unknown or impossible.
    """
    method = find_method(name)
    known = [field.name for field in fields(method)]
    given = {"seed": seed} | (settings or {}) if "seed" in known else settings or {}
    if unknown := sorted(set(given) - set(known)):
        raise InputError(f"method {name} has no setting {', '.join(unknown)}; it has: {', '.join(known) or 'none'}")
    for field in fields(method):
        kinds = get_args(field.type) or (field.type,)
        value = given.get(field.name, field.default)
        if type(value) not in kinds and not (float in kinds and type(value) is int):
            words = " or ".join(getattr(kind, "__name__", str(kind)) for kind in kinds)
            raise InputError(
                f"method {name}: a setting has a value of the wrong kind ({field.name} is {words}, not {value!r})"
            )
    return method(**given)
