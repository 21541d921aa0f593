"""quantvggt evaluate"""

import argparse
from typing import Any

import torch
from tabulate import tabulate

from quantvggt.cli.common import MODEL_HELP, add_device_options, device_of, dtype_of, say

FILTERS = ("parts", "methods", "schemes", "forms")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help=f"{MODEL_HELP}; not with --study")
    parser.add_argument("--reference", help="the full-precision model it was made from, to measure drift")
    parser.add_argument("--dataset", default="synthetic", help="scenes with truth (default %(default)s)")
    parser.add_argument("--root", help="the folder that the dataset's download makes; synthetic needs none")
    parser.add_argument("--scenes", type=int, default=100, help="scenes to judge on (default %(default)s)")
    parser.add_argument("--frames", type=int, default=8, help="frames per scene (default %(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="of the choice of scenes; synthetic: how many to skip (default %(default)s)"
    )
    add_device_options(parser)
    study = parser.add_argument_group("the study", "methods, schemes and settings compared; run again to go on")
    study.add_argument("--study", action="store_true", help="measure what docs/results.json lacks, write the tables")
    study.add_argument("--results", default="docs/results.json", help="its rows; tables go beside it (.md)")
    study.add_argument("--minutes", type=float, help="start nothing more after so long")
    study.add_argument(
        "--workers", type=int, help="cells measured at once (default: one a usable core; 0: in this process)"
    )
    for name in FILTERS:
        study.add_argument(f"--{name}", metavar="A,B", help=f"only these {name}, comma-separated")
    study.add_argument("--redo", action="store_true", help="forget the selected rows first, and measure them again")
    study.add_argument("--dry-run", action="store_true", help="list what is missing, measure nothing")
    study.add_argument("--tables-only", action="store_true", help="write the tables from the rows, measure nothing")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from quantvggt.core.errors import InputError

    if args.study and args.model is None:
        return _run_study(args)
    if args.study or args.model is None:
        raise InputError("name a MODEL to measure, or pass --study without one")
    return _run_model(args)


def _run_study(args: argparse.Namespace) -> dict[str, Any]:
    from quantvggt.study.run import Filters, run_study

    filters = {name: _words(getattr(args, name)) for name in FILTERS}
    result = run_study(
        args.results,
        minutes=args.minutes,
        workers=args.workers,
        filters=Filters(**filters),
        redo=args.redo,
        dry_run=args.dry_run,
        tables_only=args.tables_only,
    )
    say(f"{result['rows']} rows in {result['results']}, {result['missing']} missing, {len(result['failed'])} failed")
    return result


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _run_model(args: argparse.Namespace) -> dict[str, Any]:
    from quantvggt import api
    from quantvggt.checkpoint.locate import stored_bytes
    from quantvggt.core.errors import InputError
    from quantvggt.evaluate.run import predict, score
    from quantvggt.report.table import COLUMNS
    from quantvggt.scenes.datasets import First, Picture, open_dataset

    if args.scenes < 1 or args.frames < 2:
        raise InputError("evaluation needs --scenes 1 or more and --frames 2 or more")
    dataset = open_dataset(args.dataset, args.root)
    dtype, device = dtype_of(args), device_of(args)
    model = api.load(args.model, dtype=dtype, device=device)
    picture = Picture(model.image_size)
    clips = [dataset.clip(*drawn, picture) for drawn in First(args.frames).of(dataset, args.scenes, args.seed)]
    reference = None
    if args.reference:
        exact = api.load(args.reference, dtype=torch.float32, device=device)
        reference = predict(exact, clips, label=args.reference)
    elif model.quantization is not None:
        say("without --reference FLOAT_MODEL drift can't be measured; its columns are empty")
    quantization = model.quantization
    row = score(
        predict(model, clips, label=args.model),
        clips,
        reference,
        name=args.model,
        method=quantization.method if quantization else "float",
        scheme=quantization.scheme.name if quantization else args.dtype or "float32",
        seed=args.seed,
        checkpoint_bytes=stored_bytes(args.model),
    )
    shown = [(column.title, None if row[column.key] is None else column.show(row[column.key])) for column in COLUMNS]
    say(tabulate(shown, tablefmt="plain", missingval="-", disable_numparse=True))
    return {**row, "dataset": dataset.name}
