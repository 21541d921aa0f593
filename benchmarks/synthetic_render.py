"""How long the synthetic scenes take to render: milliseconds per frame on one core, then one JSON line.

python benchmarks/synthetic_render.py [--size 112] [--clips 20]
"""

import argparse
import json
import time

import torch

from quantvggt.scenes.synthetic import make_clip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=112, help="side of the square frames, a multiple of 14")
    parser.add_argument("--clips", type=int, default=20, help="clips of 8 frames to time")
    args = parser.parse_args()
    torch.set_num_threads(1)
    make_clip(0, 8, args.size)
    times = []
    for seed in range(1, args.clips + 1):
        start = time.process_time()
        make_clip(seed, 8, args.size)
        times.append((time.process_time() - start) / 8 * 1000)
    median = sorted(times)[len(times) // 2]
    print(f"{args.size}x{args.size}: {median:.2f} ms per frame, slowest clip {max(times):.2f}")
    print(json.dumps({"size": args.size, "clips": args.clips, "ms_per_frame": round(median, 3)}))


if __name__ == "__main__":
    main()
