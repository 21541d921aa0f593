"""How much memory a step needed at its worst."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"


@dataclass
class Peak:
    """bytes: of the most resident memory above what the process held before; None where it can't be measured."""

    bytes: int | None = None


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Yield a `Peak` that is filled on leaving. Linux only (proc(5), clear_refs): elsewhere it stays None."""
    peak = Peak()
    if before := _reset():
        yield peak
        peak.bytes = max(0, _resident("VmHWM") - before)
    else:
        yield peak


def _reset() -> int:
    """Bytes resident now, from which the peak counts anew; 0 where the system has no such thing or forbids it."""
    if sys.platform != "linux":
        return 0
    ctypes.CDLL(None).malloc_trim(0)  # free memory that the allocator keeps would hide what is taken from it
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return 0
    return _resident("VmRSS")


def _resident(name: str) -> int:
    """A field of /proc/self/status, which is in kB, in bytes."""
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
