"""quantvggt inspect"""

import argparse
from typing import Any

from quantvggt.cli.common import MODEL_HELP, add_device_options, device_of, dtype_of, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("--reference", help="the full-precision model it was made from, for the weight errors")
    parser.add_argument(
        "--calibration",
        default="synthetic",
        metavar="SOURCE",
        help="images to run, as in `quantize` (default %(default)s)",
    )
    parser.add_argument("--clips", type=int, default=2, help="clips to run (default %(default)s)")
    parser.add_argument("--frames", type=int, default=4, help="frames per clip (default %(default)s)")
    add_device_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from quantvggt import api
    from quantvggt.evaluate.inspection import format_sites, inspect_sites
    from quantvggt.scenes.calibration import calibration_clips

    model = api.load(args.model, dtype=dtype_of(args), device=device_of(args))
    reference = api.load(args.reference, dtype=dtype_of(args), device=device_of(args)) if args.reference else None
    clips = calibration_clips(args.calibration, args.clips, args.frames, model.image_size, model.preprocessing)
    reports = inspect_sites(model, clips, reference)
    quantization = model.quantization
    if quantization is None:
        say(f"{args.model}: full precision")
    else:
        settings = {name: value for name, value in quantization.settings.items() if name != "budget"}  # seen below
        say(f"{args.model}: {quantization.scheme.name} by {quantization.method} {settings or ''}")
    say(format_sites(reports))
    return {
        "model": args.model,
        "quantization": quantization.to_dict() if quantization else None,
        "sites": [report.to_dict() for report in reports],
    }
