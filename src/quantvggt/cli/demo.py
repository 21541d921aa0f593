"""quantvggt demo"""

import argparse
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--output", default="runs/demo", help="folder for the report and the scene (default %(default)s)"
    )
    parser.add_argument("--scenes", type=int, default=64, help="held-out scenes to judge on (default %(default)s)")
    parser.add_argument("--calibration", type=int, default=16, help="scenes to calibrate on (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default %(default)s)")


def run(args: argparse.Namespace) -> dict[str, Any]:
    from quantvggt.report.demo import run_demo

    return run_demo(args.output, scenes=args.scenes, calibration=args.calibration, seed=args.seed)
