"""Memory of this process: resident, or allocated on a GPU."""

import resource
import sys
from pathlib import Path

import torch

_STATUS = Path("/proc/self/status")


def resident_bytes() -> int:
    """Resident now; 0 where the system doesn't tell."""
    return _field("VmRSS") if _STATUS.exists() else 0


def peak_bytes(device: str, bare: int) -> int:
    """The most this process ever held: of a GPU's memory if it works there, else resident above `bare`."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    if _STATUS.exists():
        return _field("VmHWM") - bare
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit - bare


def available_bytes() -> int | None:
    """What the system could still give; None where it doesn't tell."""
    info = Path("/proc/meminfo")
    if not info.exists():
        return None
    line = next(line for line in info.read_text().splitlines() if line.startswith("MemAvailable:"))
    return 1024 * int(line.split()[1])


def _field(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return 1024 * int(line.split()[1])
