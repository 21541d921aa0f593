"""What `reconstruct --refine` does to cameras: AUC@5 before and after on held-out scenes, and the seconds it takes.

    python benchmarks/refine.py [--model vggt-nano] [--scenes 10] [--frames 8] [--first 0]

The last line is JSON.
"""

import argparse
import json
import time

import numpy as np
from tabulate import tabulate

import quantvggt as qv
from quantvggt.core.machine import environment
from quantvggt.evaluate.metrics.pose import auc, pose_errors
from quantvggt.reconstruction.refine import refine
from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="vggt-nano")
    parser.add_argument("--scenes", type=int, default=10)
    parser.add_argument("--frames", type=int, default=8)
    parser.add_argument("--first", type=int, default=0, help="how many of the held-out scenes to pass over")
    args = parser.parse_args()
    model, rows = qv.load(args.model), []
    for seed in range(HELD_OUT_SEED + args.first, HELD_OUT_SEED + args.first + args.scenes):
        clip = make_clip(seed, args.frames)
        assert clip.truth is not None
        scene = qv.reconstruct(model, clip)
        start = time.perf_counter()
        done = refine(scene)
        seconds = time.perf_counter() - start
        truth = clip.truth.extrinsics.numpy()
        before, after = (auc(*pose_errors(each.extrinsics, truth), 5) for each in (scene, done.scene))
        rows.append({"seed": seed, "before": before, "after": after, "seconds": seconds, "reason": done.reason})
    print(tabulate(rows, headers="keys", floatfmt=".3f", missingval=""))
    means = {key: float(np.mean([row[key] for row in rows])) for key in ("before", "after", "seconds")}
    print(f"AUC@5 {means['before']:.3f} -> {means['after']:.3f}, {means['seconds']:.1f} s a scene")
    print(json.dumps({"model": args.model, "frames": args.frames, "rows": rows, **means, **environment()}))


if __name__ == "__main__":
    main()
