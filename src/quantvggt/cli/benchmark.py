"""quantvggt benchmark"""

import argparse
from typing import Any

import torch

from quantvggt.cli.common import MODEL_HELP, add_attention_bits_option, device_of, say
from quantvggt.core.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help=f"{MODEL_HELP}; without one VGGT-1B with seeded weights is timed")
    parser.add_argument("--frames", default="4,20", help="numbers of frames, by commas (default %(default)s)")
    parser.add_argument("--size", default="518x392", help="of the frames, WIDTHxHEIGHT (default %(default)s)")
    parser.add_argument("--schemes", default="w8a8,w4a4", help="of a float model, by commas (default %(default)s)")
    parser.add_argument(
        "--baseline",
        default="published-float32,published-bf16,float,torchao",
        help="by commas: published-float32 and published-bf16 (as the published code runs), float (ours, bfloat16), "
        "torchao (its int8 dynamic quantization), float-compiled, torchao-compiled (default %(default)s)",
    )
    parser.add_argument("--repeats", type=int, default=3, help="medians are of so many runs (default %(default)s)")
    parser.add_argument(
        "--journal",
        help="a file that keeps finished runs, so that the same command goes on after an interruption; gone at the end",
    )
    add_attention_bits_option(parser)
    parser.add_argument("--threads", type=int, help="default: PyTorch's own")
    parser.add_argument("--device", default="auto", help="auto (the default), cpu, cuda")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from quantvggt.bench.run import Setting, benchmark, format_rows
    from quantvggt.core.machine import processor
    from quantvggt.kernels import ops, registry  # noqa: F401 - the ops register themselves

    width, height = _numbers("--size", args.size, "x", 2)
    if args.repeats < 1 or (args.threads is not None and args.threads < 1):
        raise InputError("--repeats and --threads must be 1 or more")
    frames, bits = _numbers("--frames", args.frames, ","), args.attention_bits
    setting = Setting(frames, height, width, args.repeats, device_of(args), args.threads, bits)
    chosen = [row for row in registry.report(setting.device) if row.chosen]
    kernels = {row.op: row.backend for row in chosen if "bfloat16" in row.step}
    kernels |= {row.op: row.backend for row in chosen if bits != 16 and row.step == f"{bits}-bit queries and keys"}
    head = {
        "model": args.model or "VGGT-1B, seeded weights",
        "cpu": processor(),
        "threads": args.threads or torch.get_num_threads(),
        "torch": torch.__version__,
        "kernels": kernels,
        "repeats": args.repeats,
    }
    say(", ".join(f"{key} {value}" for key, value in head.items()))
    say("making the quantized checkpoints (VGGT-1B: a minute or two)")
    rows: list[dict[str, Any]] = []
    for found in benchmark(args.model, _words(args.schemes), _words(args.baseline), setting, journal=args.journal):
        rows += found
        say(format_rows(found))
    return {**head, "rows": rows}


def _words(text: str) -> list[str]:
    return [word for word in text.split(",") if word]


def _numbers(option: str, text: str, separator: str, count: int | None = None) -> list[int]:
    words = text.split(separator)
    if not all(word.isdecimal() and int(word) > 0 for word in words) or count not in (None, len(words)):
        raise InputError(f"{option} {text}: write whole numbers, for example {'518x392' if count else '4,20'}")
    return [int(word) for word in words]
