"""`quantvggt COMMAND ...`: reads the command line, runs one command, and turns errors into exit codes.

0 done; 2 the caller's mistake, said in one line on stderr; 1 anything else.
"""

import argparse
import json
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module

from quantvggt import __version__
from quantvggt.core.errors import IncompleteError, InputError, QuantVGGTError

COMMANDS = {
    "demo": "see the whole job done on a small model: quantize, compare, reconstruct (a few minutes)",
    "select": "choose a calibration set from a pool of candidate clips: NFDS and other strategies",
    "quantize": "make a model small: W8A8, W4A8, W4A4, ...",
    "reconstruct": "photos or a video to cameras, depth, points (COLMAP, PLY, GLB) and a page to look at",
    "evaluate": "measure models on scenes with truth, made or published, and their drift from full precision",
    "datasets": "the published datasets that evaluate knows, and whether one is all there",
    "benchmark": "latency and memory against float, the published code and torchao, side by side",
    "inspect": "list every quantizable layer: shape, bits, bytes, weight error, activation outliers",
    "view": "look at a scene in the browser, or at two and their difference",
    "app": "a page to drop photos or a video on, in the browser: scenes, downloads, full precision beside",
    "serve": "reconstruction over HTTP: a queue, a worker, limits, an API key",
    "import-published": "turn parameters calibrated with the published QuantVGGT code into a small checkpoint",
    "tune": "try out which tiles the kernels are the quickest with on the NVIDIA GPU that is here, and keep them",
    "doctor": "what this machine can do, and which kernels run here and why",
}

EPILOG = """\
first steps:
  quantvggt demo                                             the whole story on a small model, no downloads
  quantvggt quantize facebook/VGGT-1B vggt-w4a4 --scheme w4a4 --calibration my_photos/
  quantvggt reconstruct vggt-w4a4 my_photos/ --output scene
  quantvggt COMMAND --help                                   every option of a command

With --json, stdout carries one JSON object and nothing else; everything for people goes to stderr.
"""


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """The parser; `only` names the one command whose options are needed, so that --help stays quick."""
    parser = argparse.ArgumentParser(
        prog="quantvggt",
        description="Quantize VGGT to 8 or 4 bits, keep it small, and turn photos into a 3D scene.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"quantvggt {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        command = commands.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == only:
            module = import_module(f"quantvggt.cli.{name.replace('-', '_')}")
            module.add_arguments(command)
            command.add_argument("--json", action="store_true", help="print the result as one JSON object on stdout")
            command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    args = build_parser(next((word for word in argv if word in COMMANDS), None)).parse_args(argv)
    warnings.formatwarning = _format_warning
    from quantvggt.core.limits import keep_threads_to_cpus  # not above: it loads PyTorch, which --help does without

    keep_threads_to_cpus()
    try:
        result = args.run(args)
    except InputError as error:
        print(f"quantvggt {args.command}: {error}", file=sys.stderr)
        return 2
    except IncompleteError as error:
        if args.json:
            print(json.dumps(error.result))
        print(f"quantvggt {args.command}: {error}", file=sys.stderr)
        return 1
    except QuantVGGTError as error:
        print(f"quantvggt {args.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"quantvggt {args.command}: interrupted", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps(result))
    return 0


def _format_warning(message: Warning | str, *_: object, **__: object) -> str:
    return f"warning: {message}\n"


if __name__ == "__main__":
    sys.exit(main())
