"""Latency of one forward pass of VGGT-1B: float32, bfloat16 and quantized, side by side in one run.

    python benchmarks/latency.py [--frames 2,4] [--size 518x392] [--schemes w8a8,w4a4] [--repeats 3]

Seeded weights. A quantized model keeps what isn't quantized in bfloat16. Every repeat runs all sides in turn, so that
a machine that slows down slows all of them; the median of the repeats counts. Needs 12 GB of memory. The last line is
JSON.
"""

import argparse
import json
import statistics
import sys
import time

import torch

import quantvggt as qv
from quantvggt.models import VGGT, VGGTConfig
from quantvggt.models.seeded import seeded_model


def build(schemes: list[str]) -> dict[str, VGGT]:
    """Every side, the float32 model first."""
    model = seeded_model(VGGTConfig.vggt_1b())
    small = {scheme: qv.quantize(model, scheme, "rtn", progress=False).to(torch.bfloat16) for scheme in schemes}
    return {"float32": model, "bfloat16": model.sharing_copy().to(torch.bfloat16), **small}


def seconds(model: VGGT, images: torch.Tensor) -> float:
    start = time.perf_counter()
    with torch.inference_mode():
        model(images)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", default="2,4")
    parser.add_argument("--size", default="518x392", help="WIDTHxHEIGHT")
    parser.add_argument("--schemes", default="w8a8,w4a4")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    width, height = (int(side) for side in args.size.split("x"))
    sides = build(args.schemes.split(","))
    for model in sides.values():
        seconds(model, torch.rand(1, 1, 3, 112, 112))  # warm up, build kernels
    rows = []
    print(f"{'frames':>6} {'side':9} {'seconds':>8} {'over float32':>13} {'over bfloat16':>14}", file=sys.stderr)
    for frames in (int(word) for word in args.frames.split(",")):
        images = torch.rand(1, frames, 3, height, width, generator=torch.Generator().manual_seed(0))
        times: dict[str, list[float]] = {side: [] for side in sides}
        for _ in range(args.repeats):
            for side, model in sides.items():
                times[side].append(seconds(model, images))
        medians = {side: statistics.median(values) for side, values in times.items()}
        for side, median in medians.items():
            faster = [medians[base] / median for base in ("float32", "bfloat16")]
            print(f"{frames:6} {side:9} {median:8.2f} {faster[0]:12.2f}x {faster[1]:13.2f}x", file=sys.stderr)
        rows.append({"frames": frames, "width": width, "height": height, "latency_s": medians})
    print(json.dumps({"threads": torch.get_num_threads(), "repeats": args.repeats, "rows": rows}))


if __name__ == "__main__":
    main()
