"""What this process runs on: versions and machine, as provenance of results."""

import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from quantvggt import __version__

CHANGED = "+changes"


@cache
def source_commit(package: Path = Path(__file__).parents[1]) -> str | None:
    """The commit that the package's code is of, with CHANGED behind it if its folder has been edited since.

    None if it isn't from a git checkout: installed copies aren't, even inside one.
    """

    def git(*words: str) -> str:
        command = ["git", "-C", str(package), *words]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        return git("rev-parse", "HEAD") + CHANGED * bool(git("status", "--porcelain", "--", "."))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


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


def processor(file: Path = Path("/proc/cpuinfo")) -> str:
    """This machine's; platform.processor() is empty on most Linux systems."""
    try:
        lines = file.read_text().splitlines()
    except OSError:
        lines = []
    told = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" in told:
        return told["model name"]
    if "CPU part" in told:  # ARM's Linux has numbers instead
        return f"{platform.machine()}, implementer {told.get('CPU implementer')}, part {told['CPU part']}"
    return platform.processor() or platform.machine()
