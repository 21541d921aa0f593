"""Every kind of quantized op beside the float op that it stands for, as models run them.

    python benchmarks/ops_cpu.py [--models VGGT-1B,DA3-SMALL,vggt-nano] [--only TEXT] [--seconds 0.5]

A model with seeded weights and one block of each kind, in the precision that `reconstruct` takes here (mixed where this
CPU is quick at bfloat16), runs on one picture and on four, and what goes into each layer that can be quantized is kept.
Each distinct call is then timed with the float layer and with quantized ones, with the norm, GELU, gain and residual
that its block gives it. In blocks 8 bits are rounding to nearest and 4 what `best` makes, without a low-rank branch and
with 16 directions; elsewhere both are rounding to nearest, and activations have 8 bits, those of convolutions none.
Left out is what is the same op on both sides: attention, and what is never quantized, such as patch embedding.
The sides of a call take turns, and a row holds medians. Seconds are processor time of one thread, since the machine may
be shared, and threads that wait for others would say nothing of an op. Takes about four minutes and 4 GB in all. Rows
go to stderr, the last line is JSON.
"""

import argparse
import inspect
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest import mock

import torch
from tabulate import tabulate
from torch import Tensor, nn

from quantvggt.calibrate.rest import rest_scheme, round_layer
from quantvggt.core.branch import Branch
from quantvggt.core.machine import environment, processor
from quantvggt.core.rotation import random_signs
from quantvggt.core.scheme import Scheme
from quantvggt.core.transform import Transform
from quantvggt.models import VGGT, Model, VGGTConfig, mixed
from quantvggt.models.da3 import DA3Config
from quantvggt.models.seeded import seeded_model
from quantvggt.models.sites import all_sites, quantizable_sites
from quantvggt.nn import block
from quantvggt.nn.fused import linear_steps
from quantvggt.nn.quant_linear import QuantLinear, mark_frames

VGGT_1B = VGGTConfig(depth=1, dpt_layers=(0, 0, 0, 0), camera_trunk_depth=1)
NANO = VGGTConfig(
    img_size=112,
    embed_dim=256,
    depth=1,
    num_heads=8,
    patch_embed="conv",
    camera_trunk_depth=1,
    camera_num_heads=8,
    dpt_features=64,
    dpt_out_channels=(64, 64, 128, 128),
    dpt_layers=(0, 0, 0, 0),
    heads=("camera", "depth", "point"),
)
MODELS = {"VGGT-1B": (VGGT_1B, 392, 518), "DA3-SMALL": (DA3Config.small(), 378, 504), "vggt-nano": (NANO, 84, 112)}
"""Shape, height and width of its pictures."""
CAMERAS = 20  # the most tokens that VGGT's camera head gets here
RANK = 16
ROUNDS = 5, 200  # at least, at most
MOST = 1.05  # of the float op's time

Arguments = dict[str, Any]
"""What `linear_steps` takes, or a layer, by name."""


@dataclass(frozen=True)
class Call:
    site: str
    kind: str
    layer: nn.Module
    given: Arguments
    autocast: bool

    @property
    def steps(self) -> list[str]:
        return [name for name, value in self.given.items() if name != "x" and value is not None and value is not False]

    @property
    def shape(self) -> str:
        x, weight = self.given["x"], self.layer.get_parameter("weight")
        if isinstance(self.layer, nn.Linear):
            return f"{x.shape[:-1].numel()} x {weight.shape[1]} -> {weight.shape[0]}"
        assert isinstance(self.layer, nn.Conv2d | nn.ConvTranspose2d)
        count, channels, height, width = x.shape
        return f"{count} x {channels} x {height} x {width} -> {self.layer.out_channels}, {self.layer.kernel_size[0]}"

    def run(self, layer: nn.Module) -> Tensor:
        with torch.autocast("cpu", mixed.PRODUCTS, enabled=self.autocast):
            y: Tensor = (
                layer(self.given["x"]) if self.kind.endswith("convolution") else linear_steps(layer, **self.given)
            )
            return y


class Calls:
    """Those that a model makes of layers that can be quantized, each distinct one once."""

    def __init__(self, model: Model) -> None:
        self._sites = {layer: site for site, layer in all_sites(model).items()}
        self._trunk = set(quantizable_sites(model))
        self._blocks = {site for part in model.parts for place in part.places for site in place.sites}
        self._found: dict[tuple[Any, ...], Call] = {}
        self._fused = False

    def of(self, run: Callable[[], object]) -> None:
        """Add those that `run` makes."""
        handles = [layer.register_forward_pre_hook(self._by_itself) for layer in self._sites]
        with mock.patch.object(block, "linear_steps", self._in_steps):
            run()
        for handle in handles:
            handle.remove()

    def all(self) -> list[Call]:
        return list(self._found.values())

    def _in_steps(self, *args: Any, **kwargs: Any) -> Tensor:
        given = inspect.signature(linear_steps).bind(*args, **kwargs).arguments
        self._keep(given.pop("layer"), given)
        self._fused = True
        try:
            return linear_steps(*args, **kwargs)
        finally:
            self._fused = False

    def _by_itself(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if not self._fused:
            self._keep(layer, {"x": inputs[0]})

    def _keep(self, layer: nn.Module, given: Arguments) -> None:
        if layer not in self._sites:
            return
        call = Call(self._sites[layer], self._kind(layer), layer, given, torch.is_autocast_enabled("cpu"))
        x = given["x"]
        key = call.kind, call.shape, *call.steps, x.dtype, call.autocast, x.stride() if x.ndim == 4 else None
        self._found.setdefault(key, call)

    def _kind(self, layer: nn.Module) -> str:
        if isinstance(layer, nn.Conv2d):
            return "convolution"
        if isinstance(layer, nn.ConvTranspose2d):
            return "transposed convolution"
        site = self._sites[layer]
        return "trunk" if site in self._trunk else "other block" if site in self._blocks else "other linear"


def opened(name: str) -> tuple[Model, list[Call]]:
    """The model, and what it calls."""
    config, height, width = MODELS[name]
    model = seeded_model(config)
    if name == "VGGT-1B":
        dino = model.get_submodule("aggregator.patch_embed")
        dino.blocks = nn.ModuleList([dino.get_submodule("blocks.0")])
    if mixed.is_quick(torch.device("cpu")):
        narrow = model.mix(mixed.PRODUCTS)
        for parameter_name, parameter in model.named_parameters():
            if parameter_name in narrow:
                parameter.data = parameter.data.to(mixed.PRODUCTS)
    calls = Calls(model)
    for frames in (1, 4):
        calls.of(partial(run, model, torch.rand(1, frames, 3, height, width)))
    if isinstance(model, VGGT):
        calls.of(partial(model.camera_head, torch.randn(1, CAMERAS, 2 * model.config.embed_dim)))
    return model, calls.all()


def run(model: Model, images: Tensor) -> None:
    """A pass, dense heads on two pictures: as many of this size as they take at a time."""
    frames, height, width = images.shape[1], *images.shape[-2:]
    points = torch.rand(1, 256, 2) * min(height, width) if model.can_track(height, width) else None
    model.read(model.encode(images), images, dense=range(min(frames, 2)), queries=points)


def quantized(call: Call, tokens: int, special: int) -> dict[str, nn.Module]:
    """The call's layer in several schemes."""
    if call.kind not in ("trunk", "other block"):
        schemes = {f"w{bits}": Scheme(bits, 8) for bits in (8, 4)}
        return {
            name: round_layer(call.layer, rest_scheme(scheme, call.layer), search=False)
            for name, scheme in schemes.items()
        }
    assert isinstance(call.layer, nn.Linear)
    few = Scheme.parse("w4a4-asym-s8") if call.kind == "trunk" else Scheme(4, 8)
    k = call.layer.in_features
    transform = Transform(shift=torch.zeros(k), presmooth=torch.ones(k), signs=random_signs(k, 0))
    branch, _ = Branch.split(torch.linalg.qr(torch.randn(k, RANK))[0], call.layer.weight.detach())
    layers = {
        "w8": QuantLinear.from_float(call.layer, Scheme(8, 8)),
        "w4": QuantLinear.from_float(call.layer, few, transform),
        f"w4 + {RANK}": QuantLinear.from_float(call.layer, few, transform, branch=branch),
    }
    for layer in layers.values():
        mark_frames(layer, tokens, special)
    return dict(layers)


def medians(sides: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Seconds of each side, the first round (warm-up) left out."""
    least, most = ROUNDS
    taken: dict[str, list[float]] = {name: [] for name in sides}
    until = time.thread_time() + seconds
    for done in range(most + 1):
        if done > least and time.thread_time() > until:
            break
        for name, run in sides.items():
            start = time.thread_time()
            run()
            taken[name].append(time.thread_time() - start)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def measure(name: str, only: str, seconds: float) -> list[dict[str, Any]]:
    """Rows of one model."""
    model, calls = opened(name)
    _, height, width = MODELS[name]
    special = model.trunk.special
    tokens = special + height // model.patch_size * (width // model.patch_size)
    rows = []
    for call in sorted(calls, key=lambda call: call.kind):
        if only not in f"{call.kind} {call.site}":
            continue
        layers = {"float": call.layer, **quantized(call, tokens, special)}
        with torch.inference_mode():
            times = medians({side: partial(call.run, layer) for side, layer in layers.items()}, seconds)
        ratios = {side: times[side] / times["float"] for side in times if side != "float"}
        around = {"steps": call.steps, "dtype": str(call.given["x"].dtype).removeprefix("torch.")}
        row = {"model": name, "kind": call.kind, "site": call.site, "shape": call.shape, **around}
        rows.append({**row, "seconds": times, "ratios": ratios})
        shown = "".join(f" {ratio:9.2f}" for ratio in ratios.values())
        print(
            f"{call.kind:22} {call.site[-44:]:44} {call.shape:38} {1e3 * times['float']:9.3f} ms{shown}",
            file=sys.stderr,
        )
    return rows


def worst(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The largest ratio of each kind of op in each model, by scheme."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in rows:
        kept = found.setdefault((row["model"], row["kind"]), {})
        for side, ratio in row["ratios"].items():
            kept[side] = max(ratio, kept.get(side, 0))
    return [{"model": model, "kind": kind, **ratios} for (model, kind), ratios in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--only", default="", help="part of the kind and name of layers: conv, camera_head, ...")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each call, but for at least five rounds")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    rows = []
    for name in args.models.split(","):
        print(f"{name}, {processor()}: float, then ratios with 8 and 4 bits (+ {RANK} directions)", file=sys.stderr)
        rows += measure(name, args.only, args.seconds)
    print(tabulate(worst(rows), "keys", floatfmt=".2f"), file=sys.stderr)
    slow = sum(ratio > MOST for row in rows for ratio in row["ratios"].values())
    print(f"slower than {MOST} of the float op: {slow}", file=sys.stderr)
    print(json.dumps({**environment(), "worst": worst(rows), "rows": rows}))


if __name__ == "__main__":
    with torch.no_grad():
        main()
