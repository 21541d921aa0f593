"""quantvggt import-published"""

import argparse
from typing import Any

from quantvggt.cli.common import MODEL_HELP, add_device_options, device_of, dtype_of, require_apart, require_free, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=f"the full-precision model that was calibrated: {MODEL_HELP}")
    parser.add_argument(
        "parameters", help="folder with qs_frame_parameters_total.pth and qs_global_parameters_total.pth"
    )
    parser.add_argument("output", help="folder for the small checkpoint")
    parser.add_argument(
        "--scheme", required=True, help="the bits it was calibrated for, for example w4a4 (not in the files)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint that is already there")
    add_device_options(parser, mixed=False)


def run(args: argparse.Namespace) -> dict[str, Any]:
    from quantvggt import api
    from quantvggt.checkpoint.locate import stored_bytes
    from quantvggt.checkpoint.published import import_published

    require_apart(args.model, args.output)
    output = require_free(args.output, args.overwrite)
    model = api.load(args.model, dtype=dtype_of(args), device=device_of(args))
    small = import_published(model, args.parameters, args.scheme)
    api.save(small, output, overwrite=args.overwrite)
    size = stored_bytes(output)
    say(f"{output}: {size / 1e6:.1f} MB")
    return {"output": str(output), "scheme": args.scheme, "checkpoint_bytes": size}
