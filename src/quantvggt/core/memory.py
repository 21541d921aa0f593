"""How much memory a step or a process needed at its worst, and how much is left."""

import ctypes
import resource
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from quantvggt.core.limits import limits

_STATUS, _CLEAR, _SYSTEM = (Path(f"/proc/{name}") for name in ("self/status", "self/clear_refs", "meminfo"))
_RESET_PEAK = "5"
_caps: dict[int, int] = {}


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
        peak.bytes = max(0, _field(_STATUS, "VmHWM") - before)
    else:
        yield peak


def resident_bytes() -> int:
    """What this process holds now; 0 where the system doesn't tell."""
    return _field(_STATUS, "VmRSS") if _STATUS.exists() else 0


def process_peak_bytes(device: str, bare: int) -> int:
    """The most this process ever held: of a GPU's memory if it works there, else resident above `bare`."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    if _STATUS.exists():
        return _field(_STATUS, "VmHWM") - bare
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - bare


def available_bytes() -> int | None:
    """What the system and a container's limit could still give; None where neither tells."""
    known = [_field(_SYSTEM, "MemAvailable") if _SYSTEM.exists() else None, limits().free]
    return min((size for size in known if size is not None), default=None)


def gpu_available_bytes(device: str | torch.device) -> int:
    """What this process could still take of a GPU: what nobody has and what its allocator holds unused, below the cap
    that `cap_gpu` set."""
    free, total = torch.cuda.mem_get_info(device)
    held = torch.cuda.memory_allocated(device)
    return min(free + torch.cuda.memory_reserved(device) - held, _caps.get(gpu_index(device), total) - held)


def cap_gpu(device: str | torch.device, most: int) -> None:
    """From now on PyTorch gives this process `most` bytes of that GPU, and torch.OutOfMemoryError for more."""
    index, total = gpu_index(device), torch.cuda.mem_get_info(device)[1]
    torch.cuda.set_per_process_memory_fraction(min(1.0, most / total), index)
    _caps[index] = most


def gpu_index(device: str | torch.device) -> int:
    """Its number; that of the current one where the device has none, which not all of torch.cuda takes."""
    index = torch.device(device).index
    return torch.cuda.current_device() if index is None else index


def machine_bytes() -> int | None:
    """The machine's memory; None where the system doesn't tell."""
    return _field(_SYSTEM, "MemTotal") if _SYSTEM.exists() else None


def _reset() -> int:
    """Bytes resident now, from which the peak counts anew; 0 where the system has no such thing or forbids it."""
    if sys.platform != "linux":
        return 0
    ctypes.CDLL(None).malloc_trim(0)  # free memory that the allocator keeps would hide what is taken from it
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        return 0
    return _field(_STATUS, "VmRSS")


def _field(file: Path, name: str) -> int:
    """A field of one of Linux's files, which are in kB, in bytes."""
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
