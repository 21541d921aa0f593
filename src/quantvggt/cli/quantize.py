"""quantvggt quantize"""

import argparse
import json
import time
from typing import Any

from quantvggt.cli.common import (
    MODEL_HELP,
    add_device_options,
    device_of,
    dtype_of,
    parse_bytes,
    require_apart,
    require_free,
    say,
)
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import PRESETS, Scheme


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("output", help="folder for the small checkpoint")
    parser.add_argument(
        "--scheme",
        default="w4a4",
        help=f"bits of weights and activations: {', '.join(PRESETS)}, or any w<bits>a<bits> (default %(default)s); "
        "w8a8-fp8 for GPUs with fp8, by method rtn or smoothquant",
    )
    whole = parser.add_mutually_exclusive_group()
    whole.add_argument(
        "--rest",
        metavar="SCHEME",
        help="bits of DINOv2 and the heads, half of VGGT-1B, which are left at 16 bits without it, for example w8a8",
    )
    whole.add_argument(
        "--budget",
        metavar="SIZE",
        help="size of the checkpoint at most, for example 650MB: 4 or 8 bits for each block and each part of a head, "
        "by measured sensitivity, DINOv2 and heads included; instead of --rest and --site",
    )
    whole.add_argument(
        "--ratio", type=float, help="the same as --budget, as how much smaller than the whole model in float16"
    )
    parser.add_argument(
        "--method",
        default="best",
        help="how the numbers are found (default %(default)s): best, the newest version of our own (barq-2); rtn, "
        "which needs no calibration; dsfq and dsfq-learned (QuantVGGT); or a baseline: smoothquant, gptq, quarot, awq, "
        "repqvit, dopqvit, brecq, qdrop, flatquant. docs/results.md compares them",
    )
    parser.add_argument(
        "--calibration",
        default="synthetic",
        metavar="SOURCE",
        help="folder of images, folder of such folders, or video like those you will use; a .json file that "
        "quantvggt select wrote; synthetic (the default) needs no files",
    )
    parser.add_argument("--clips", type=int, default=16, help="size of the calibration set (default %(default)s)")
    parser.add_argument("--frames", type=int, default=8, help="frames per clip (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the rotation (default %(default)s)")
    parser.add_argument(
        "--setting",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a setting of the method, for example alpha=0.6; may be repeated",
    )
    parser.add_argument(
        "--site",
        action="append",
        default=[],
        metavar="PATTERN=SCHEME",
        help="mixed precision: another scheme for the layers whose names fit, for example '*.mlp.fc2=w4a8' or "
        "'*_blocks.0.*=w8a8'; may be repeated, the last that fits counts (quantvggt inspect lists the names)",
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint that is already there")
    add_device_options(parser, mixed=False)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from quantvggt import api
    from quantvggt.calibrate.budget import format_groups
    from quantvggt.calibrate.journal import discard
    from quantvggt.calibrate.methods import make_method, needs_clips, require_numbers
    from quantvggt.checkpoint.locate import stored_bytes
    from quantvggt.scenes.calibration import calibration_clips

    scheme, settings = Scheme.parse(args.scheme), parse_settings(args.setting)
    site_schemes = {pattern: Scheme.parse(name) for pattern, name in parse_pairs("--site", args.site).items()}
    rest = None if args.rest is None else Scheme.parse(args.rest)
    budget = None if args.budget is None else parse_bytes("--budget", args.budget)
    if args.ratio is not None and not args.ratio > 0:
        raise InputError(f"--ratio must be above 0, got {args.ratio}; for example 3.7")
    if site_schemes and (args.budget or args.ratio):
        raise InputError("--budget and --ratio choose the bits of every layer; leave --site out")
    method = make_method(args.method, settings, args.seed)
    require_numbers(method, scheme, rest, *site_schemes.values())
    require_apart(args.model, args.output)
    output = require_free(args.output, args.overwrite)
    # A budget is spent by passes through the whole model; otherwise blocks go to the device one at a time.
    device = device_of(args)
    whole = device if args.budget or args.ratio else "cpu"
    model = api.load(args.model, dtype=dtype_of(args), device=whole)
    if args.ratio is not None:
        budget = int(2 * sum(parameter.numel() for parameter in model.parameters()) / args.ratio)
    clips = []
    if budget is not None or needs_clips(method, scheme, rest, *site_schemes.values()):
        clips = calibration_clips(args.calibration, args.clips, args.frames, model.image_size, model.preprocessing)
        say(f"calibrating on {len(clips)} clips of {len(clips[0].names)} frames from {args.calibration}")
        if args.calibration == "synthetic":
            say("(images like those you will use are a better calibration set: --calibration FOLDER)")
    journal = output.with_name(f"{output.name}.unfinished")
    if journal.is_dir():
        say(f"{journal} is of a run that was interrupted; what this same task finished isn't done again")
    start = time.perf_counter()
    small = api.quantize(
        model,
        scheme,
        args.method,
        clips,
        seed=args.seed,
        settings=settings,
        site_schemes=site_schemes,
        rest=rest,
        budget=budget,
        journal=journal if clips else None,
        device=device,
    )
    seconds = time.perf_counter() - start
    assert small.quantization is not None
    choice = small.quantization.settings.get("budget")
    if choice is not None:
        say(format_groups(choice))
    api.save(small, output, overwrite=args.overwrite)
    discard(journal)
    size = stored_bytes(output)
    half = 2 * sum(parameter.numel() for parameter in model.parameters())
    say(f"{output}: {size / 1e6:.1f} MB, {half / size:.2f}x smaller than the whole model in float16 ({seconds:.0f} s)")
    return {
        "output": str(output),
        "scheme": scheme.name,
        "rest": None if rest is None else rest.name,
        "method": args.method,
        "budget": choice,
        "checkpoint_bytes": size,
        "float16_bytes": half,
        "ratio": half / size,
        "clips": len(clips),
        "seconds": seconds,
    }


def parse_settings(words: list[str]) -> dict[str, Any]:
    """["alpha=0.6"] -> {"alpha": 0.6}; values are JSON, or text. Raises InputError if a word has no "="."""
    settings: dict[str, Any] = {}
    for name, value in parse_pairs("--setting", words).items():
        try:
            settings[name] = json.loads(value)
        except json.JSONDecodeError:
            settings[name] = value
    return settings


def parse_pairs(option: str, words: list[str]) -> dict[str, str]:
    """["a=b"] -> {"a": "b"}. Raises InputError if a word has no "="."""
    pairs = dict(word.partition("=")[::2] for word in words)
    for word in words:
        if not all(word.partition("=")):
            raise InputError(f"{option} {word}: write NAME=VALUE, for example alpha=0.6 or '*.mlp.fc2=w4a8'")
    return pairs
