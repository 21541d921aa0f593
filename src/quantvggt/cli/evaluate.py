"""quantvggt evaluate"""

import argparse
from pathlib import Path
from typing import Any

from quantvggt.cli.common import MODEL_HELP, add_device_options, device_of, dtype_of, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("--reference", help="the full-precision model it was made from, to measure drift")
    parser.add_argument("--scenes", type=int, default=100, help="held-out synthetic scenes (default %(default)s)")
    parser.add_argument("--frames", type=int, default=8, help="frames per scene (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="offset into the held-out scenes (default %(default)s)")
    add_device_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from quantvggt import api
    from quantvggt.checkpoint.load import locate
    from quantvggt.core.errors import InputError
    from quantvggt.evaluate.run import predict, score
    from quantvggt.evaluate.table import COLUMNS
    from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clips

    if args.scenes < 1 or args.frames < 2:
        raise InputError("evaluation needs --scenes 1 or more and --frames 2 or more")
    dtype, device = dtype_of(args), device_of(args)
    model = api.load(args.model, dtype=dtype, device=device)
    first = HELD_OUT_SEED + args.seed
    clips = make_clips(range(first, first + args.scenes), args.frames, model.config.img_size)
    reference = None
    if args.reference:
        reference = predict(api.load(args.reference, dtype=dtype, device=device), clips, label=args.reference)
    elif model.quantization is not None:
        say("without --reference FLOAT_MODEL drift can't be measured; its columns are empty")
    quantization = model.quantization
    row = score(
        predict(model, clips, label=args.model),
        clips,
        reference,
        name=args.model,
        method=quantization.method if quantization else "float",
        scheme=quantization.scheme.name if quantization else "float32",
        seed=args.seed,
        checkpoint_bytes=_bytes(locate(args.model)),
    )
    for column in COLUMNS:
        value = row[column.key]
        say(f"{column.title:18} {'-' if value is None else column.show(value)}")
    return row


def _bytes(weights: Path) -> int:
    config = weights.parent / "config.json"
    return weights.stat().st_size + (config.stat().st_size if config.is_file() else 0)
