"""What this process runs on: versions and machine, as provenance of results."""

import os
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quantvggt import __version__


def environment() -> dict[str, Any]:
    """Versions and machine of this process, as provenance."""
    return {
        "versions": {
            "quantvggt": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "machine": {
            "system": platform.system(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
    }


def processor() -> str:
    """This machine's; platform.processor() is empty on most Linux systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
