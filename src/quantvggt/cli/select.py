"""quantvggt select"""

import argparse
import time
from pathlib import Path
from typing import Any

from quantvggt.calibrate.sampling.features import DEEP, pool_features
from quantvggt.calibrate.sampling.strategies import (
    CORRELATIONS,
    RULES,
    STRATEGIES,
    SamplingSettings,
    choose,
    find_strategy,
)
from quantvggt.cli.common import (
    MODEL_HELP,
    add_device_options,
    add_place_options,
    load_model,
    place_of,
    require_free,
    say,
)
from quantvggt.core.errors import InputError

PAGE_NAME = "selection.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    paper = SamplingSettings()
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument(
        "pool", help="folder of scenes (folders of images, videos), one folder of images, a video, or synthetic"
    )
    parser.add_argument("output", help="the chosen set, a .json file for quantize --calibration")
    parser.add_argument("--size", type=int, default=40, help="clips to choose (default %(default)s)")
    parser.add_argument("--strategy", default="nfds", help=f"{', '.join(STRATEGIES)} (default %(default)s)")
    parser.add_argument("--frames", type=int, default=8, help="frames per clip (default %(default)s)")
    parser.add_argument("--pool-size", type=int, default=400, help="candidates at most (default %(default)s)")
    parser.add_argument("--clusters", type=int, default=paper.clusters, help="K of K-Means (default %(default)s)")
    parser.add_argument("--rule", choices=RULES, default=paper.rule, help="of the noise filter (default %(default)s)")
    parser.add_argument(
        "--drop",
        type=float,
        default=paper.drop,
        help="share of the pool that rule percentile drops (default %(default)s)",
    )
    parser.add_argument(
        "--deep", type=float, default=DEEP, help="share of the trunk, from its end, that is scored (default 1/6)"
    )
    parser.add_argument(
        "--correlation", choices=CORRELATIONS, default=paper.correlation, help="of frames (default %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw (default %(default)s)")
    parser.add_argument("--plots", metavar="FOLDER", help=f"write {PAGE_NAME} there: scores, clusters, chosen clips")
    parser.add_argument("--overwrite", action="store_true", help="replace a set or page that is already there")
    add_place_options(parser)
    add_device_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    find_strategy(args.strategy)
    settings = SamplingSettings(args.clusters, args.rule, args.drop, args.correlation)
    output = require_free_file(args.output, args.overwrite)
    folder = require_free(args.plots, args.overwrite) if args.plots else None

    from quantvggt.calibrate.sampling.selection import gather
    from quantvggt.cli.pool import pool_of, shared_features
    from quantvggt.core.files import atomic_file

    place = place_of(args)
    pool = pool_of(args)
    if not 1 <= args.size <= len(pool):
        raise InputError(f"--size {args.size}: the pool has {len(pool)} clips; ask for 1 to {len(pool)}")
    start = time.perf_counter()
    if args.workers or args.ray:
        features = shared_features(args, len(pool), place, output.with_name(f"{output.name}.unfinished"))
    else:
        features = pool_features(load_model(args), pool, deep=args.deep)
    seconds = time.perf_counter() - start
    choice = choose(features, args.size, args.strategy, args.seed, settings)
    chosen = gather(pool, features, choice, args.strategy, args.seed, settings, args.model)
    chosen.save(output)
    passed = int(choice.kept.sum())
    say(f"{output}: {len(chosen)} of {len(pool)} clips ({passed} pass the filter) by {args.strategy} ({seconds:.0f} s)")
    page = None
    if folder is not None:
        from quantvggt.report.selection_page import selection_page

        page = folder / PAGE_NAME
        with atomic_file(page) as temporary:
            temporary.write_text(selection_page(features, choice, chosen), encoding="utf-8")
        say(f"{page}: why these")
    return {
        "output": str(output),
        "strategy": args.strategy,
        "seed": args.seed,
        "pool": len(pool),
        "passed": passed,
        "size": len(chosen),
        "indices": list(chosen.indices),
        "seconds": seconds,
        "page": str(page) if page else None,
    }


def require_free_file(path: str, overwrite: bool) -> Path:
    """`path`, if a calibration set may be written there. Raises InputError if not."""
    target = Path(path).expanduser()
    if target.suffix.lower() != ".json":
        raise InputError(f"cannot write the set to {target}: name a .json file, for that is how quantize knows it")
    if target.is_dir():
        raise InputError(f"cannot write to {target}: it is a folder; name a file")
    if target.exists() and not overwrite:
        raise InputError(f"{target} exists already; pass --overwrite or name a new file")
    return target
