"""Which backend is the quickest on this CPU: timed once per machine, when a model first runs such a step.

CPUs differ in more than their instructions, so the registry's order, best first, is a guess. Times are of one thread,
and of its own processor time: on a busy machine threads that wait for each other would say nothing of the backend. They
are kept in the user's cache for this CPU, PyTorch and these backends; where it can't be written, for this process. With
the environment variable QUANTVGGT_MEASURE=0 nothing is timed, and the registry's order holds.
"""

import hashlib
import json
import math
import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch

from quantvggt.core.cache import cache_folder
from quantvggt.core.errors import InputError
from quantvggt.core.files import atomic_file
from quantvggt.core.machine import processor
from quantvggt.kernels import samples
from quantvggt.kernels.contract import Backend, IntLinear, Step
from quantvggt.kernels.samples import SAMPLES, kind_of

ENVIRONMENT = "QUANTVGGT_MEASURE"
ROUNDS = 7
SLOW = 3  # what takes so many times the quickest's time is timed once
MARGIN = 0.95  # of another's time: what takes more is not quicker, but noise may say so
MOST_SECONDS = 0.15  # for one kind of step: what had no turn by then isn't timed

Seconds = dict[str, float | None]
"""Name -> median seconds of a call; None where there was no time to time it."""

Order = tuple[Seconds, Sequence[Backend]]

_lock = threading.Lock()
_known: dict[Any, Order] = {}


def enabled() -> bool:
    """Unless the user has said no."""
    return os.environ.get(ENVIRONMENT) != "0"


def in_order(step: Step, backends: Sequence[Backend]) -> Sequence[Backend]:
    """Those of the op of `step`, on a CPU, the quickest first; one that wasn't timed keeps its place."""
    return _order((step.OP, kind_of(step)), backends)[1]


def seconds(op: str, kind: str, backends: Sequence[Backend]) -> Seconds:
    """Of each backend that takes such steps, and of what float models do; empty if there is nothing to choose from."""
    return _order((op, kind), backends)[0]


def measure(runs: Mapping[str, Callable[[], Any]], clock: Callable[[], float] = time.thread_time) -> Seconds:
    """Medians of calls that take turns, so that noise meets all alike; each is called once before."""

    def once(run: Callable[[], Any]) -> float:
        start = clock()
        run()
        return clock() - start

    found: dict[str, list[float]] = {name: [] for name in runs}
    until = clock() + MOST_SECONDS
    for name, run in runs.items():
        if clock() < until:
            found[name].append(once(run))
        if clock() < until:
            found[name] = [once(run)]
    until = clock() + MOST_SECONDS
    for _ in range(1, ROUNDS):
        quickest = min(statistics.median(each) for each in found.values() if each)
        for name, each in found.items():
            if each and statistics.median(each) < SLOW * quickest and clock() < until:
                each.append(once(runs[name]))
    return {name: statistics.median(each) if each else None for name, each in found.items()}


@contextmanager
def one_thread() -> Iterator[None]:
    """Of PyTorch and our kernels, meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def rank(times: Mapping[str, float]) -> list[str]:
    """The quickest first; of two that are alike the one that comes first in `times`."""
    left, ranked = dict(times), list[str]()
    while left:
        best = next(iter(left))
        for name in left:
            if left[name] < MARGIN * left[best]:
                best = name
        ranked.append(best)
        del left[best]
    return ranked


def _order(key: tuple[str, str], backends: Sequence[Backend]) -> Order:
    if key not in SAMPLES or not enabled():
        return {}, backends
    here = key, *backends
    if here not in _known:
        with _lock:
            if here not in _known:
                times = _kept_or_measured(key, backends)
                _known[here] = times, _sorted(backends, times)
    return _known[here]


def _sorted(backends: Sequence[Backend], times: Seconds) -> Sequence[Backend]:
    by_name = {backend.name: backend for backend in backends}
    timed = {name: each for name in by_name if (each := times.get(name)) is not None}
    ranked = iter(rank(timed))
    return [by_name[next(ranked)] if backend.name in timed else backend for backend in backends]


def _kept_or_measured(key: tuple[str, str], backends: Sequence[Backend]) -> Seconds:
    cpu = torch.device("cpu")
    usable = [backend for backend in backends if backend.available(cpu)[0]]
    if len(usable) < 2:
        return {}
    file, name = _file(), ", ".join(key)
    known, of = _read(file), {backend.name: backend.digest() for backend in usable}
    kept = _fitting(known.get(name), of)
    if kept is None:
        kept = _measured(key, usable)
        if file is not None:
            known[name] = {"of": of, "seconds": kept}
            with suppress(InputError, OSError), atomic_file(file) as target:
                target.write_text(json.dumps(known, indent=1))
    return kept


def _measured(key: tuple[str, str], usable: Sequence[Backend]) -> Seconds:
    # Whatever the model that waits for this has set.
    with torch.no_grad(), torch.autocast("cpu", enabled=False), one_thread():
        step, floats = SAMPLES[key].make()
        taking = [backend for backend in usable if backend.accepts(step) is None]
        return measure({backend.name: _run(backend, step) for backend in taking} | floats) if len(taking) > 1 else {}


def _run(backend: Backend, step: Step) -> Callable[[], Any]:
    if isinstance(step, IntLinear):
        step = step.with_weight(backend.prepare(step.weight))
    return partial(backend.run, step)


def _file() -> Path | None:
    """Where times of this CPU, PyTorch and these samples are kept; None if there is no place."""
    code = [Path(module).read_bytes() for module in (__file__, samples.__file__)]
    of = [processor(), torch.__version__, code]
    try:
        return cache_folder() / f"measured-{hashlib.sha256(repr(of).encode()).hexdigest()[:32]}.json"
    except InputError:
        return None


def _read(file: Path | None) -> dict[str, Any]:
    """What is kept; nothing if it is damaged."""
    try:
        known = json.loads(file.read_text()) if file is not None else {}
    except (OSError, ValueError, RecursionError):
        known = {}
    return known if isinstance(known, dict) else {}


def _fitting(entry: Any, of: Mapping[str, str]) -> Seconds | None:
    """The times in an entry of the file, if they are such, and of these backends."""
    times = entry.get("seconds") if isinstance(entry, dict) and entry.get("of") == of else None
    if not isinstance(times, dict):
        return None
    fits = all(each is None or (isinstance(each, float) and 0 < each < math.inf) for each in times.values())
    return times if fits else None
