"""quantvggt evaluate"""

import argparse
from typing import Any

from quantvggt.cli.common import (
    MODEL_HELP,
    add_attention_bits_option,
    add_attention_option,
    add_device_options,
    add_place_options,
    say,
)

FILTERS = ("parts", "methods", "schemes", "forms")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="*", help=f"{MODEL_HELP}; not with --study")
    parser.add_argument("--reference", help="the full-precision model they were made from, to measure drift")
    parser.add_argument("--dataset", help="scenes with truth; docs/datasets.md (default: synthetic)")
    parser.add_argument("--root", help="the folder that the dataset's download makes; synthetic needs none")
    parser.add_argument("--protocol", help="how it is measured; docs/metrics.md (default: the dataset's first)")
    parser.add_argument(
        "--relpose",
        choices=("vggt", "quantvggt", "pi3"),
        help="form of the relative pose (default: the protocol's; vggt is the true one)",
    )
    parser.add_argument(
        "--config", metavar="TABLE", help="a table of the paper: its protocol, and its numbers beside ours; or a .toml"
    )
    parser.add_argument("--scenes", type=int, help="scenes to judge on (default: all; synthetic: 100)")
    parser.add_argument("--frames", type=int, help="frames per scene (default: as the protocol has it; synthetic: 8)")
    parser.add_argument(
        "--seed",
        type=int,
        help="of the choice of scenes and frames (default: the protocol's; synthetic: how many to skip)",
    )
    parser.add_argument("--output", "-o", help="folder for results.json, report.html, and finished scenes")
    parser.add_argument(
        "--allow-overlap", action="store_true", help="judge a model also on frames that it was calibrated on"
    )
    add_place_options(parser)
    add_attention_option(parser)
    add_attention_bits_option(parser)
    add_device_options(parser)
    making = parser.add_argument_group("models to compare, made from one float MODEL and kept in --output")
    making.add_argument("--calibration", default="synthetic", metavar="SOURCE", help="as of quantize (%(default)s)")
    making.add_argument("--clips", type=int, default=16, help="size of the calibration set (default %(default)s)")
    making.add_argument("--calibration-frames", type=int, default=8, help="frames per clip (default %(default)s)")
    study = parser.add_argument_group("the study", "methods, schemes and settings compared; run again to go on")
    study.add_argument("--study", action="store_true", help="measure what docs/results.json lacks, write the tables")
    study.add_argument("--results", default="docs/results.json", help="its rows; tables go beside it (.md)")
    study.add_argument("--minutes", type=float, help="start nothing more after so long")
    for name in FILTERS:
        makes = "; without --study: those to make, all: those of --config" if name in ("methods", "schemes") else ""
        study.add_argument(f"--{name}", metavar="A,B", help=f"only these {name}, comma-separated{makes}")
    study.add_argument("--redo", action="store_true", help="forget the selected rows first, and measure them again")
    study.add_argument("--dry-run", action="store_true", help="list what is missing, measure nothing")
    study.add_argument("--tables-only", action="store_true", help="write the tables from the rows, measure nothing")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from quantvggt.core.errors import InputError

    if args.study and args.attention != "exact":
        raise InputError(f"--attention {args.attention}: the study is of exact attention; leave it out")
    if args.study and args.attention_bits != 16:
        raise InputError(f"--attention-bits {args.attention_bits}: the study is of 16 bits; leave it out")
    if args.study and not args.model:
        return _run_study(args)
    if args.study:
        raise InputError("name a MODEL to measure, or pass --study without one")
    from quantvggt.cli.compare import compare

    return compare(args)


def _run_study(args: argparse.Namespace) -> dict[str, Any]:
    from quantvggt.study.run import Filters, run_study

    filters = {name: _words(getattr(args, name)) for name in FILTERS}
    result = run_study(
        args.results,
        minutes=args.minutes,
        workers=args.workers,
        ray=args.ray,
        filters=Filters(**filters),
        redo=args.redo,
        dry_run=args.dry_run,
        tables_only=args.tables_only,
    )
    say(f"{result['rows']} rows in {result['results']}, {result['missing']} missing, {len(result['failed'])} failed")
    return result


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]
