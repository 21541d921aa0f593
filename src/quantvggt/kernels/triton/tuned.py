"""Which tiles were the quickest on the GPUs that are here, as `tune` found them: kept in the user's cache.

A file is for one GPU's name, compute capability, version of Triton and source of the kernel; what another had found is
not read. A file that is damaged is left alone, with one warning: the known tiles run.
"""

import hashlib
import json
import warnings
from collections.abc import Mapping
from dataclasses import astuple, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from quantvggt.core.cache import cache_folder
from quantvggt.core.errors import InputError
from quantvggt.core.files import atomic_file, read_json
from quantvggt.core.memory import gpu_index
from quantvggt.kernels.triton import tiles
from quantvggt.kernels.triton.tiles import CANDIDATES, INTERPRETED, ROWS, Chip, Shape, Tile, chip_of

MOST_BYTES = 1 << 20
SOURCES = ("linear.py", "launch.py")


def chip(device: torch.device) -> Chip:
    """What is known of the GPU, or of Triton's interpreter, and the tiles that were tried out there."""
    return _chip(torch.device("cuda", gpu_index(device)) if device.type == "cuda" else device)


def file_of(device: torch.device) -> Path | None:
    """Where tiles of this GPU are kept, be there such a file or not; None if there is no place, or no Triton."""
    folder = Path(__file__).parent
    try:
        of = [_name(device), metadata.version("triton"), *((folder / name).read_text() for name in SOURCES)]
        return cache_folder() / f"tiles-{hashlib.sha256(repr(of).encode()).hexdigest()[:32]}.json"
    except (InputError, metadata.PackageNotFoundError):
        return None


def keep(device: torch.device, found: Mapping[Shape, Tile]) -> Path:
    """Add to what is kept for this GPU; it is used from now on. Raises InputError if it can't be written."""
    file = file_of(device)
    if file is None:
        raise InputError("there is no place to keep tiles in; XDG_CACHE_HOME can name one")
    entries = [[*shape, *astuple(tile)] for shape, tile in {**chip(device).tuned, **found}.items()]
    with atomic_file(file) as target:
        target.write_text(json.dumps({"gpu": _name(device), "tiles": entries}, indent=1))
    _chip.cache_clear()
    return file


@lru_cache
def _chip(device: torch.device) -> Chip:
    known = INTERPRETED if device.type == "cpu" else chip_of(_capability(device))
    tuned = _read(file_of(device))
    return replace(known, tuned=tuned) if tuned else known


def _read(file: Path | None) -> dict[Shape, Tile]:
    if file is None or not file.exists():
        return {}
    try:
        return dict(map(_entry, read_json(file, MOST_BYTES)["tiles"]))
    except (InputError, TypeError, KeyError, ValueError):
        warnings.warn(f"{file} is damaged, so known tiles run; delete it, or tune again", stacklevel=2)
        return {}


def _entry(numbers: Any) -> tuple[Shape, Tile]:
    """Raises ValueError or TypeError unless it is such a pair."""
    if not all(type(number) is int for number in numbers):
        raise ValueError("not whole numbers")
    rows, k, n, bits, rank, *rest = numbers
    tile = Tile(*rest)
    if rows not in ROWS or bits not in (4, 8) or tile not in _known():
        raise ValueError("no such tile")
    return Shape(rows, k, n, bits, rank), tile


def _known() -> set[Tile]:
    return {*CANDIDATES, *(tile for each in (*tiles.CHIPS.values(), INTERPRETED) for tile in (each.few, each.many))}


def _name(device: torch.device) -> str:
    if device.type == "cpu":
        return "Triton's interpreter"
    return f"{torch.cuda.get_device_name(device)}, compute capability {_capability(device)}"


def _capability(device: torch.device) -> int:
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
