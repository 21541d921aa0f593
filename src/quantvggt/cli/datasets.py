"""quantvggt datasets"""

import argparse
import warnings
from typing import Any

from quantvggt.cli.common import say

SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", metavar="NAME", help="look whether this dataset is all there, and can be read")
    parser.add_argument("--root", metavar="DIR", help="the folder that its download makes")
    parser.add_argument("--split", default="test", help="the split to check (default %(default)s)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from tabulate import tabulate

    from quantvggt.scenes.datasets import DATASETS

    if args.check:
        return _check(args)
    fields = ("name", "title", "licence", "source")
    told = [{field: getattr(kind, field) for field in fields} for kind in DATASETS.values()]
    say(tabulate([list(each.values()) for each in told], headers=fields, tablefmt="plain"))
    say("Nothing is downloaded. docs/datasets.md has the layouts; --check NAME --root DIR says what is missing.")
    return {"datasets": told}


def _check(args: argparse.Namespace) -> dict[str, Any]:
    from quantvggt.scenes.datasets import open_dataset
    from quantvggt.scenes.datasets.check import check

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "dataset .* is not complete")  # what is missing is said below
        dataset = open_dataset(args.check, args.root)
    found = check(dataset, args.split)
    for kind, lines in (("missing", found.missing), ("can't be read", found.unreadable)):
        for line in lines[:SHOWN]:
            say(f"{kind}: {line}")
        if lines[SHOWN:]:
            say(f"{kind}: and {len(lines) - SHOWN} more (--json has all)")
    complete = not found.missing and not found.unreadable
    lacking = "" if complete else f"; the rest is given out at {dataset.source} ({dataset.licence})"
    say(f"{dataset.name}, split {args.split}: {found.scenes} scenes{', complete' if complete else lacking}")
    return {"dataset": dataset.name, "root": args.root, "split": args.split, "complete": complete, **found._asdict()}
