"""Size, latency and peak memory of Depth-Anything-3, quantized, beside the float model.

    python benchmarks/families.py [--models SMALL,BASE] [--schemes w8a8,w4a4] [--frames 4] [--size 504x378]
        [--repeats 3]

Weights are seeded, quantized by rounding to nearest at 8 bits and by `best` below, what lies outside the trunk at w8a8.
Sides take turns in processes of their own, as in `quantvggt benchmark`; the float model runs in bfloat16. With
`--repeats 0` nothing is timed. Rows go to stderr as they are done, the last line is JSON. Takes a few minutes
on two cores.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tabulate import tabulate

import quantvggt as qv
from quantvggt.bench.run import Setting, benchmark
from quantvggt.checkpoint.locate import stored_bytes
from quantvggt.core.machine import processor
from quantvggt.core.scheme import Scheme
from quantvggt.models.da3 import DA3Config
from quantvggt.models.seeded import seeded_model
from quantvggt.scenes.synthetic import make_clips

CONFIGS = {"SMALL": DA3Config.small, "BASE": DA3Config.base, "LARGE": DA3Config.large, "GIANT": DA3Config.giant}
CLIPS = make_clips([9_600_000], frames=2, size=224)  # what numbers come of them changes neither size nor speed


def measure(name: str, scheme: str, setting: Setting) -> dict[str, Any]:
    """One row: a model of that size, quantized, against itself in bfloat16."""
    model = seeded_model(CONFIGS[name]())
    parameters = sum(parameter.numel() for parameter in model.parameters())
    method = "best" if Scheme.parse(scheme).weight_bits < 8 else "rtn"
    small = qv.quantize(model, scheme, method, CLIPS, rest="w8a8", progress=False)
    del model
    with tempfile.TemporaryDirectory() as folder:
        path = str(qv.save(small, Path(folder) / "model"))
        del small
        row = {"model": f"DA3-{name}", "scheme": scheme, "method": method, "parameters": parameters}
        row |= {"float16_bytes": 2 * parameters, "checkpoint_bytes": stored_bytes(path)}
        if setting.repeats:
            ((timed,),) = benchmark(path, (), ["float"], setting, progress=False)
            row |= timed | {"scheme": scheme}
    return row


def show(rows: list[dict[str, Any]]) -> str:
    """Aligned text, one line a row."""
    head = ("model", "scheme", "MB", "float16 MB", "seconds", "float s", "faster", "peak GB", "float GB")
    keys = ("latency_s", "baseline_latency_s", "speedup")
    body = [
        (
            row["model"],
            row["scheme"],
            row["checkpoint_bytes"] / 1e6,
            row["float16_bytes"] / 1e6,
            *(row.get(key) for key in keys),
            *(row[key] / 1e9 if row.get(key) else None for key in ("peak_bytes", "baseline_peak_bytes")),
        )
        for row in rows
    ]
    return tabulate(body, head, floatfmt=("", "", ".1f", ".1f", ".2f", ".2f", ".2f", ".2f", ".2f"), missingval="-")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="SMALL,BASE", help=", ".join(CONFIGS))
    parser.add_argument("--schemes", default="w8a8,w4a4")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--size", default="504x378", help="WIDTHxHEIGHT")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    width, height = (int(side) for side in args.size.split("x"))
    setting, rows = Setting((args.frames,), height, width, args.repeats), []
    for name in args.models.split(","):
        for scheme in args.schemes.split(","):
            rows.append(measure(name, scheme, setting))
            print(show(rows[-1:]), file=sys.stderr)
    print(json.dumps({"cpu": processor(), "rows": rows}))


if __name__ == "__main__":
    main()
