"""Which backend runs which step on which device, and why.

Backends of an op are kept best first; on a CPU, what was `measured` there corrects that. A step goes to the first one
that is available on its device and accepts it; the last, the reference, takes every step. `force` or the environment
variable QUANTVGGT_KERNELS names one backend instead: it runs the steps it accepts, and the reference all others, those
of ops that have no backend of that name included. A named one that can't run on the device is an error.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from quantvggt.core.errors import InputError
from quantvggt.kernels import measured
from quantvggt.kernels.contract import Backend, IntLinear, Step, examples
from quantvggt.kernels.samples import SAMPLES

ENVIRONMENT = "QUANTVGGT_KERNELS"


@dataclass(frozen=True)
class Times:
    """What was measured on this CPU of a kind of steps: seconds of one thread, by backend and by float model."""

    op: str
    step: str
    shape: str
    seconds: measured.Seconds


@dataclass(frozen=True)
class Row:
    """One line of `report`."""

    op: str
    step: str
    backend: str
    chosen: bool
    reason: str


_backends: dict[str, list[Backend]] = {}
_forced: str | None = None
# weight -> backend -> the weight's version and what the backend made of it. Weights are held weakly.
_prepared = WeakTensorKeyDictionary()


def register(op: str, backend: Backend) -> None:
    """Add a backend for `op`, ahead of those already there."""
    _backends.setdefault(op, []).insert(0, backend)


def remove(op: str, backend: Backend) -> None:
    """Take back what `register` added."""
    _backends[op].remove(backend)


def force(name: str | None) -> None:
    """Use the backend `name` from now on, and the reference for what it doesn't take; None goes back to choosing.

    Raises InputError if no op has a backend of that name.
    """
    global _forced
    if name is not None:
        _require_known(name, "force")
    _forced = name


def select(op: str, device: torch.device) -> Backend:
    """The best backend for `op` that is available on `device`, whatever steps it accepts.

    Raises InputError if a forced one is unknown or can't run there.
    """
    return next(_candidates(op, device, _backends[op], forced_name()))


def choose(step: Step) -> Backend:
    """The backend that runs `step`. Raises InputError as `select` does."""
    backends: Sequence[Backend] = _backends[step.OP]
    device, name = step.device, forced_name()
    if device.type == "cpu" and len(backends) > 1 and name is None:
        backends = measured.in_order(step, backends)
    return next(backend for backend in _candidates(step.OP, device, backends, name) if backend.accepts(step) is None)


def run(step: Step) -> Any:
    """The op's result."""
    backend = choose(step)
    if isinstance(step, IntLinear) and type(backend).prepare is not Backend.prepare:
        step = step.with_weight(_prepare(backend, step.weight))
    return backend.run(step)


def bind(step: Step) -> Callable[..., Any] | None:
    """What the backend that runs `step` makes of it, see `Backend.bind`."""
    return choose(step).bind(step)


def state(*ops: str) -> list[Any]:
    """What would have to be the same for a choice of backends of these ops to hold, if nothing is measured anew."""
    return [forced_name(), *[_backends[op].copy() for op in ops]]


def report(device: torch.device | str = "cpu") -> list[Row]:
    """Every op, a few steps of it and every backend: is it chosen on `device`, and why is it (not) usable?"""
    device, rows = torch.device(device), []
    for op, steps in examples(device).items():
        for name, step in steps.items():
            chosen = choose(step)
            rows += [
                Row(op, name, backend.name, backend is chosen, _reason(backend, step, chosen))
                for backend in _backends[op]
            ]
    return rows


def times() -> list[Times]:
    """Of every kind of steps of which several backends take some here, measured now if need be."""
    found = {key: measured.seconds(*key, _backends[key[0]]) for key in SAMPLES if key[0] in _backends}
    return [Times(*key, SAMPLES[key].shape, seconds) for key, seconds in found.items() if seconds]


def _reason(backend: Backend, step: Step, chosen: Backend) -> str:
    available, reason = backend.available(step.device)
    refusal = backend.accepts(step) if available else None
    name, order = forced_name(), _backends[step.OP]
    if name is None and available and order.index(backend) < order.index(chosen):
        reason += f"; measured slower than {chosen.name}"
    elif name is not None and refusal is None:
        if backend.name == "reference" != name:
            reason += f"; for what {name} does not take"
        elif backend.name != name:
            reason += f"; not {name}, which is forced"
    return refusal or reason


def _candidates(op: str, device: torch.device, backends: Sequence[Backend], name: str | None) -> Iterator[Backend]:
    """name: of the one that is forced."""
    for backend in backends:
        if name is None or backend.name == name:
            available, reason = backend.available(device)
            if available:
                yield backend
            elif name is not None:
                raise InputError(f"kernels {name!r} can't run {op} on {device}: {reason}; unset {ENVIRONMENT}")
    yield _backends[op][-1]


def _prepare(backend: Backend, weight: Tensor) -> Any:
    """What `backend` made of this weight, made again only after the weight was written into."""
    if weight.is_inference():
        return backend.prepare(weight)  # nobody counts what is written into these
    made = _prepared.setdefault(weight, {})
    version, prepared = made.get(backend, (-1, None))
    if version != weight._version:
        version, prepared = weight._version, backend.prepare(weight)
        if prepared is not weight:  # which would keep itself alive
            made[backend] = version, prepared
    return prepared


def forced_name() -> str | None:
    """What `force` or the environment names, if one of them does. Raises InputError if there is no such backend."""
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
