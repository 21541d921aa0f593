"""What several commands share: options, and how people are spoken to."""

import argparse
import os
import re
import sys
from pathlib import Path
from typing import Any

import torch

from quantvggt.core.errors import InputError
from quantvggt.kernels.contract import SCORE_BITS

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MODEL_HELP = (
    "hub id (facebook/VGGT-1B, depth-anything/DA3-SMALL), .pt or .safetensors file, saved folder, or what comes with "
    'the package: "vggt-nano", "vggt-nano-heavy", "vggt-nano-long"'
)


def say(text: str = "") -> None:
    """To people: stderr, so that stdout stays free for --json."""
    print(text, file=sys.stderr)


def add_device_options(parser: argparse.ArgumentParser, dtype: str | None = None, mixed: bool = True) -> None:
    """--device and --dtype; dtype: the default of the latter. mixed: may precision be mixed?"""
    parser.add_argument(
        "--device", default="auto", help="auto (the default: cuda if there is one, else cpu), cpu, cuda"
    )
    words = "auto: mixed where that is quick; mixed: bfloat16 products, float32 sums and cameras; " if mixed else ""
    default = "%(default)s" if dtype else "as the checkpoint was saved"
    choices = (*(("auto", "mixed") if mixed else ()), *DTYPES)
    parser.add_argument(
        "--dtype", default=dtype, choices=choices, help=f"of what isn't quantized; {words}default: {default}"
    )


def add_attention_option(parser: argparse.ArgumentParser) -> None:
    """--attention, which `Model.attention` is set to."""
    parser.add_argument(
        "--attention",
        default="exact",
        choices=("exact", "fast"),
        help="fast: of other frames' patches a token sees a quarter, each for four; quicker the more frames there are "
        "(default %(default)s)",
    )


def add_attention_bits_option(parser: argparse.ArgumentParser) -> None:
    """--attention-bits, which `Model.attention_bits` is set to."""
    parser.add_argument(
        "--attention-bits",
        type=int,
        default=16,
        choices=SCORE_BITS,
        help="of queries and keys of global attention; 8 is for NVIDIA GPUs that multiply integers faster, and slower "
        "on a CPU (default %(default)s)",
    )


def device_of(args: argparse.Namespace) -> str:
    """The device that --device names."""
    if args.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return str(args.device)


def dtype_of(args: argparse.Namespace) -> Any:
    """What --dtype says, for `api.load`; None for the checkpoint's own."""
    return DTYPES.get(args.dtype, args.dtype)


def parse_bytes(option: str, text: str) -> int:
    """ "650MB" -> 650000000; also kB, GB, KiB, MiB, GiB and plain bytes. Raises InputError on anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kKMG]?)(i?)B?", text.strip())
    if match is None or (match[3] and not match[2]):
        raise InputError(f"{option} {text}: write a size, for example 650MB")
    return int(float(match[1]) * (1024 if match[3] else 1000) ** " KMG".index(match[2].upper() or " "))


def load_model(args: argparse.Namespace) -> Any:
    """The model that MODEL, --dtype, --device and, where a command has them, --attention and --attention-bits name."""
    from quantvggt import api

    model = api.load(args.model, dtype=dtype_of(args), device=device_of(args))
    if "attention" in args:
        model.attention = args.attention
    if "attention_bits" in args:
        model.attention_bits = args.attention_bits
    return model


def add_place_options(parser: argparse._ActionsContainer) -> None:
    """--workers, --ray and --threads: where many tasks are done."""
    parser.add_argument(
        "--workers",
        type=int,
        help="processes that share the work (default: this one alone); with --ray, over all machines (default: as many "
        "as have room)",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help='share the work on a Ray cluster: "auto" (the one that this machine is part of), host:port, or "local" '
        "(pip install 'quantvggt[ray]'; docs/cluster.md)",
    )
    parser.add_argument(
        "--threads", type=int, help="of each worker (default: an equal share; with --ray all of the smallest machine)"
    )


def place_of(args: argparse.Namespace) -> Any:
    """What --workers, --ray, --threads and --device say. Raises InputError if a number is out of range."""
    from quantvggt.jobs.executor import Place

    gpus = {"auto": None, "cpu": 0}.get(args.device, 1)
    return Place(args.workers or 0, args.ray, args.threads, gpus)


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


def require_apart(model: str, output: str) -> None:
    """Raises InputError if writing the checkpoint `output` would replace the one that `model` is read from."""
    from quantvggt.checkpoint.locate import lies_in

    if lies_in(model, Path(output).expanduser()):
        raise InputError(
            f"input and output are the same: {model} lies in {output}, which would be replaced; name another output"
        )


def _writable(folder: Path) -> bool:
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
