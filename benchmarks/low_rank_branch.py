"""What the low-rank branch of `best` costs: passes of VGGT-1B in W4A4 with branches of several ranks and without.

    python benchmarks/low_rank_branch.py [--frames 4] [--ranks 0 16 32] [--repeats 5]

Seeded weights in bfloat16, random directions, images of 518x392: time doesn't ask what numbers are. Rank 0 is what
`barq-1` makes. The sides take turns. Needs about 12 GB. The last line is JSON.
"""

import argparse
import json
import statistics
import time

import torch
from tabulate import tabulate
from torch import nn

from quantvggt.core.branch import Branch
from quantvggt.core.machine import environment
from quantvggt.core.rotation import random_signs
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.models import Model, VGGTConfig
from quantvggt.models.seeded import seeded_model
from quantvggt.models.sites import quantizable_sites
from quantvggt.nn.quant_linear import QuantLinear

SCHEME = Scheme.parse("w4a4-asym-s8")


def layer(linear: nn.Linear, rank: int) -> QuantLinear:
    """With everything that the method's layers have."""
    k = linear.in_features
    transform = Transform(shift=torch.zeros(k), presmooth=torch.ones(k), signs=random_signs(k, 0))
    branch = None
    if rank:
        branch, _ = Branch.split(torch.linalg.qr(torch.randn(k, rank))[0], linear.weight.detach())
    return QuantLinear.from_float(linear, SCHEME, transform, branch=branch)


def quantized(model: Model, rank: int) -> Model:
    small = model.sharing_copy()
    for name, linear in quantizable_sites(model).items():
        assert isinstance(linear, nn.Linear)
        small.set_submodule(name, layer(linear, rank))
    return small


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--ranks", type=int, nargs="+", default=[0, 16, 32])
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.manual_seed(0)
    model = seeded_model(VGGTConfig.vggt_1b(), dtype=torch.bfloat16)
    images = torch.rand(1, args.frames, 3, 392, 518)
    sides = {rank: quantized(model, rank) for rank in args.ranks}
    seconds: dict[int, list[float]] = {rank: [] for rank in sides}
    for turn in range(args.repeats + 1):
        for rank, side in sides.items():
            start = time.perf_counter()
            with torch.inference_mode():
                side.answers(images)
            if turn:  # the first one warms up
                seconds[rank].append(time.perf_counter() - start)
    medians = {rank: statistics.median(times) for rank, times in seconds.items()}
    first = medians[args.ranks[0]]
    rows = [{"rank": rank, "seconds": each, "ratio": each / first} for rank, each in medians.items()]
    print(tabulate(rows, headers="keys", floatfmt=".3f"))
    print(json.dumps({"frames": args.frames, "rows": rows, "seconds": seconds, **environment()}))


if __name__ == "__main__":
    main()
