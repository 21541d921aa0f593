"""Which kind of work a forward pass spends its time on: VGGT-1B in w4a4 beside our float model.

    python benchmarks/where_time_goes.py [--model MODEL] [--frames 4] [--size 518x392] [--scheme w4a4]

The quantized side is quantized as a whole (4-bit weights with 8-bit activations outside the trunk) and runs in mixed
precision, the float side in bfloat16, as in `quantvggt benchmark`; without --model both have VGGT-1B's shape and seeded
weights. Each is loaded, warmed up with one frame, and run once under PyTorch's profiler; an op counts without those it
calls. The last line is JSON.
"""

import argparse
import json
import sys
import tempfile
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

import quantvggt as qv
from quantvggt.bench.sides import open_side
from quantvggt.core.machine import processor
from quantvggt.core.scheme import Scheme
from quantvggt.models import VGGTConfig
from quantvggt.models.seeded import seeded_model

KINDS = {
    "integer products": ("quantvggt::int_linear",),
    "rotating and quantizing": ("quantvggt::rotate_quantize",),
    "attention": ("quantvggt::attention", "aten::_scaled_dot_product", "aten::_flash_attention"),
    "float products": ("aten::addmm", "aten::mm", "aten::bmm", "aten::baddbmm", "mkldnn::_linear"),
    "convolutions": (
        "aten::mkldnn_convolution",
        "aten::thnn_conv2d",
        "aten::_slow_conv2d",
        "mkldnn::_convolution",
        "quantvggt::dequantize_weight",
    ),
}
REST = "everything else"


def kind_of(op: str) -> str:
    return next((kind for kind, starts in KINDS.items() if op.startswith(starts)), REST)


def seconds_by_kind(side: str, source: str | dict[str, Any], images: torch.Tensor) -> dict[str, float]:
    forward = open_side(side, source, "cpu")
    forward(images[:, :1])
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        forward(images)
    seconds = dict.fromkeys((*KINDS, REST), 0.0)
    for row in profiler.key_averages():
        seconds[kind_of(row.key)] += row.self_cpu_time_total / 1e6
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", help="a float model; default VGGT-1B's shape with seeded weights")
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--size", default="518x392", help="WIDTHxHEIGHT, multiples of 14")
    parser.add_argument("--scheme", default="w4a4")
    arguments = parser.parse_args()
    width, height = map(int, arguments.size.split("x"))
    images = torch.rand(1, arguments.frames, 3, height, width, generator=torch.Generator().manual_seed(0))
    config, scheme = VGGTConfig.vggt_1b(), Scheme.parse(arguments.scheme)
    with tempfile.TemporaryDirectory(prefix="quantvggt-") as folder:
        print("making the quantized checkpoint (VGGT-1B: a minute)", file=sys.stderr)
        model = qv.load(arguments.model) if arguments.model else seeded_model(config)
        rest = Scheme(scheme.weight_bits, 8)
        small = qv.quantize(model, scheme, "rtn", rest=rest, progress=sys.stderr.isatty())
        qv.save(small, f"{folder}/small")
        del model, small
        quantized = seconds_by_kind(scheme.name, f"{folder}/small", images)
    source = arguments.model or {"family": config.family, "config": config.to_dict()}
    floats = seconds_by_kind("float", source, images)

    totals = sum(quantized.values()), sum(floats.values())
    print(f"{'':24} {scheme.name:>7} {'':>6} {'float':>8}", file=sys.stderr)
    for kind in quantized:
        (ours, share), (theirs, share_of_float) = (
            (side[kind], side[kind] / total) for side, total in zip((quantized, floats), totals, strict=True)
        )
        print(f"{kind:24} {ours:6.2f}s {share:6.1%} {theirs:7.2f}s {share_of_float:6.1%}", file=sys.stderr)
    print(f"{'all':24} {totals[0]:6.2f}s {'':6} {totals[1]:7.2f}s", file=sys.stderr)
    head = {"cpu": processor(), "threads": torch.get_num_threads(), "torch": torch.__version__}
    setting = {
        "model": arguments.model or "VGGT-1B, seeded weights",
        "frames": arguments.frames,
        "size": arguments.size,
    }
    print(json.dumps({**head, **setting, "seconds": {scheme.name: quantized, "float": floats}}))


if __name__ == "__main__":
    main()
