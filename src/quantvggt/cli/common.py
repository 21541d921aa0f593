"""What several commands share: options, and how people are spoken to."""

import argparse
import os
import sys
from pathlib import Path

import torch

from quantvggt.core.errors import InputError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MODEL_HELP = (
    "hub id (facebook/VGGT-1B), .pt or .safetensors file, saved folder, or what comes with the package: "
    '"vggt-nano", "vggt-nano-heavy"'
)


def say(text: str = "") -> None:
    """To people: stderr, so that stdout stays free for --json."""
    print(text, file=sys.stderr)


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """--device and --dtype."""
    parser.add_argument(
        "--device", default="auto", help="auto (the default: cuda if there is one, else cpu), cpu, cuda"
    )
    parser.add_argument("--dtype", choices=DTYPES, help="of what isn't quantized; default: as the checkpoint was saved")


def device_of(args: argparse.Namespace) -> str:
    """The device that --device names."""
    if args.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(args.device)


def dtype_of(args: argparse.Namespace) -> torch.dtype | None:
    """The dtype that --dtype names, None for the checkpoint's own."""
    return DTYPES[args.dtype] if args.dtype else None


def require_free(path: str, overwrite: bool) -> Path:
    """`path`, if something may be written there; asked before hours of work rather than after.

    Raises InputError if it exists and `overwrite` is not set, or the folder can't be written.
    """
    target = Path(path).expanduser()
    if target.is_file():
        raise InputError(f"cannot write to {target}: it is a file; name a folder")
    if target.is_dir() and any(target.iterdir()) and not overwrite:
        raise InputError(f"{target} exists already; pass --overwrite or name a new folder")
    parent = next(folder for folder in (target, *target.absolute().parents) if folder.exists())
    if not _writable(parent):
        raise InputError(f"cannot write to {target}: {parent} is not a folder you may write; choose another output")
    return target


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
