"""Time and memory of one forward pass of VGGT-1B against the number of frames: ours and the published way.

    python benchmarks/frames.py [--frames 2,4,8,16,32] [--size 518x392] [--dtype bfloat16|float32]

Seeded weights, every pass in a fresh process. The published way keeps the outputs of all 24 layers, runs MLPs
whole and the dense heads 8 frames at a time; ours keeps the four layers that heads read, runs MLPs in row chunks
and the heads 2 frames at a time. The model is otherwise the same one. Memory is the peak of resident memory above
the process with its weights loaded (Linux). The last line is JSON.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from quantvggt.models import VGGT, VGGTConfig
from quantvggt.models import layers as layers_module
from quantvggt.models.heads import dpt
from quantvggt.models.seeded import seeded_model

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def published_way(model: VGGT) -> None:
    """Make `model` hold what the published implementation holds."""
    layers_module.MLP_ROWS_PER_CHUNK = sys.maxsize
    dpt.PIXELS_PER_CHUNK *= 4
    trunk = model.aggregator.forward
    model.aggregator.forward = lambda images, layers: trunk(images, range(model.config.depth))  # type: ignore[method-assign]


def measure(side: str, frames: int, height: int, width: int, dtype: torch.dtype) -> None:
    model = seeded_model(VGGTConfig.vggt_1b(), dtype=dtype)
    if side == "published":
        published_way(model)
    images = torch.rand(1, frames, 3, height, width, generator=torch.Generator().manual_seed(0))
    before = resident()
    reset_peak()
    start = time.perf_counter()
    with torch.inference_mode():
        out = model(images)
    seconds = time.perf_counter() - start
    checksum = sum(value.double().mean().item() for value in out.values())
    print(
        json.dumps({"seconds": seconds, "peak_bytes": peak() - before, "weights_bytes": before, "checksum": checksum})
    )


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def peak() -> int:
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines["VmHWM"].split()[0]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--frames", default="2,4,8,16,32")
    parser.add_argument("--size", default="518x392", help="WIDTHxHEIGHT")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--side", choices=("ours", "published"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    width, height = (int(side) for side in args.size.split("x"))
    if args.side:
        measure(args.side, int(args.frames), height, width, DTYPES[args.dtype])
        return
    rows = []
    print(
        f"{'frames':>6} {'published s':>12} {'ours s':>8} {'published GB':>13} {'ours GB':>8} {'GB ratio':>9}",
        file=sys.stderr,
    )
    for frames in (int(word) for word in args.frames.split(",")):
        row: dict[str, float] = {"frames": frames, "width": width, "height": height}
        for side in ("published", "ours"):
            command = [sys.executable, __file__, "--side", side, "--frames", str(frames), "--size", args.size]
            done = subprocess.run([*command, "--dtype", args.dtype], check=True, capture_output=True, text=True)
            row |= {f"{side}_{key}": value for key, value in json.loads(done.stdout).items()}
        if abs(row["ours_checksum"] - row["published_checksum"]) > 0.02 * abs(row["published_checksum"]):
            raise SystemExit(f"the two sides differ at {frames} frames: {row}")
        rows.append(row)
        memory = row["published_peak_bytes"] / row["ours_peak_bytes"]
        print(
            f"{frames:6} {row['published_seconds']:12.1f} {row['ours_seconds']:8.1f} "
            f"{row['published_peak_bytes'] / 1e9:13.2f} {row['ours_peak_bytes'] / 1e9:8.2f} {memory:9.2f}",
            file=sys.stderr,
        )
    print(json.dumps({"dtype": args.dtype, "rows": rows}))


if __name__ == "__main__":
    main()
