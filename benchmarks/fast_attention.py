"""Global attention thinned out, beside exact: what it costs in accuracy, and how much quicker a pass is.

    python benchmarks/fast_attention.py [--part accuracy|speed] [--scenes 16] [--repeats 3]

accuracy: AUC@30 and AUC@5 of vggt-nano in full precision and in W4A4, at 32 and 64 frames, on held-out scenes.
speed: passes of VGGT-1B with seeded weights, in bfloat16 and in W4A4, at 40 frames of 280x210. The last line is JSON.
"""

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from tabulate import tabulate

import quantvggt as qv
from quantvggt.core.machine import environment
from quantvggt.evaluate.metrics.pose import auc, pose_errors
from quantvggt.evaluate.run import predict
from quantvggt.models import Model, VGGTConfig
from quantvggt.models.seeded import seeded_model
from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clip

Row = dict[str, Any]
KINDS = ("exact", "fast")


def accuracy(scenes: int) -> Iterator[Row]:
    model = qv.load("vggt-nano")
    models = {"float32": model, "W4A4 best": qv.quantize(model, "w4a4")}
    for frames in (32, 64):
        clips = [make_clip(seed, frames) for seed in range(HELD_OUT_SEED + 200, HELD_OUT_SEED + 200 + scenes)]
        for name, each in models.items():
            for kind in KINDS:
                each.attention = kind
                found = predict(each, clips, label=f"{name}, {frames} frames, {kind}", dense_frames=1)
                errors = [
                    pose_errors(prediction.extrinsics, clip.truth.extrinsics)
                    for prediction, clip in zip(found, clips, strict=True)
                    if clip.truth is not None
                ]
                pairs = [np.concatenate(sort) for sort in zip(*errors, strict=True)]
                areas = {f"auc{threshold}": auc(*pairs, threshold) for threshold in (30, 5)}
                yield {"model": name, "frames": frames, "attention": kind, **areas}


def speed(repeats: int) -> Iterator[Row]:
    exact = seeded_model(VGGTConfig.vggt_1b(), dtype=torch.bfloat16)
    images = torch.rand(1, 40, 3, 210, 280, generator=torch.Generator().manual_seed(0))
    sides: dict[str, Model] = {"bfloat16": exact, "W4A4 rtn": qv.quantize(exact, "w4a4", "rtn", rest="w8a8")}
    for name, model in sides.items():
        seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(repeats):
            for kind in KINDS:
                model.attention = kind
                start = time.perf_counter()
                with torch.inference_mode():
                    model.answers(images)
                seconds[kind].append(time.perf_counter() - start)
        for kind, times in seconds.items():
            yield {"model": name, "frames": 40, "attention": kind, "seconds": statistics.median(times)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("accuracy", "speed"), help="default: both")
    parser.add_argument("--scenes", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    parts = {"accuracy": lambda: accuracy(args.scenes), "speed": lambda: speed(args.repeats)}
    rows = {name: list(part()) for name, part in parts.items() if args.part in (None, name)}
    for found in rows.values():
        print(tabulate(found, headers="keys", floatfmt=".3f"))
    print(json.dumps({**rows, **environment()}))


if __name__ == "__main__":
    main()
