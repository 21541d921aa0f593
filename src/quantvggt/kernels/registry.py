"""Which backend runs which op on which device, and why.

Backends of an op are kept best first; the first usable one is taken. `force` or the environment variable
QUANTVGGT_KERNELS names one backend instead; an op that has none of that name runs its reference.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from quantvggt.core.errors import InputError

ENVIRONMENT = "QUANTVGGT_KERNELS"


@dataclass(frozen=True)
class Backend:
    """One implementation of an op; `check(device)` says whether it can run there and why (or why not)."""

    name: str
    run: Callable[..., Any]
    check: Callable[[torch.device], tuple[bool, str]]


@dataclass(frozen=True)
class Row:
    """One line of `report`."""

    op: str
    backend: str
    chosen: bool
    reason: str


_backends: dict[str, list[Backend]] = {}
_forced: str | None = None


def register(op: str, backend: Backend) -> None:
    """Add a backend for `op`, ahead of those already there."""
    _backends.setdefault(op, []).insert(0, backend)


def force(name: str | None) -> None:
    """Use the backend `name` from now on, and the reference of ops that lack it; None goes back to choosing.

    Raises InputError if no op has a backend of that name.
    """
    global _forced
    if name is not None:
        _require_known(name, "force")
    _forced = name


def select(op: str, device: torch.device) -> Backend:
    """The backend that runs `op` on `device`. Raises InputError if a forced one is unknown or can't run."""
    name = _forced_name()
    if name is not None and all(backend.name != name for backend in _backends[op]):
        return _backends[op][-1]
    for backend in _backends[op]:
        if name not in (None, backend.name):
            continue
        usable, reason = backend.check(device)
        if usable:
            return backend
        if name is not None:
            raise InputError(f"kernels {name!r} can't run {op} on {device}: {reason}; unset {ENVIRONMENT}")
    raise InputError(f"no kernel runs {op} on {device}")


def report(device: torch.device | str = "cpu") -> list[Row]:
    """Every op and backend: is it chosen on `device`, and the reason it gives for being usable or not."""
    device = torch.device(device)
    return [
        Row(op, backend.name, backend is select(op, device), backend.check(device)[1])
        for op, backends in _backends.items()
        for backend in backends
    ]


def _forced_name() -> str | None:
    if _forced is not None:
        return _forced
    name = os.environ.get(ENVIRONMENT)
    if name:
        _require_known(name, ENVIRONMENT)
    return name or None


def _require_known(name: str, source: str) -> None:
    known = sorted({backend.name for backends in _backends.values() for backend in backends})
    if name not in known:
        raise InputError(f"{source}: no kernels called {name!r}; choose one of {', '.join(known)}")
