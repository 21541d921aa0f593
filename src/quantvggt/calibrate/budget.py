"""Fits a whole model into so many bytes: 4 or 8 bits for each part of it, by measured sensitivity.

Every group starts at 8 bits. Groups go down to 4 in the order of what that costs: the task loss when only this group
is at 4 bits (`calibrate.sensitivity`; losses are taken to add up, and 8 bits to cost nothing) per byte that it saves.
It stops when the checkpoint fits; then whatever still fits goes back up, the costliest first. Sizes are the exact ones
of the checkpoint that will be written, so the optional tensors of the method count too.
"""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from tabulate import tabulate
from torch import nn
from tqdm import tqdm

from quantvggt.calibrate.methods import Method
from quantvggt.calibrate.methods.base import BlockTask
from quantvggt.calibrate.pipeline import record_of, require_float, resolve_schemes
from quantvggt.calibrate.sensitivity import measure_losses
from quantvggt.calibrate.stream import Stream
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import FLOAT_BITS, Scheme
from quantvggt.models import Model, build
from quantvggt.models.quantization import Quantization
from quantvggt.models.sites import all_sites, site_groups
from quantvggt.nn.empty import empty_layer
from quantvggt.nn.quant_weight import QuantWeight
from quantvggt.nn.tensors import optional_shapes
from quantvggt.scenes.clip import Clip

LOW, HIGH = 4, 8

SizeOf = Callable[[Model, torch.dtype], int]
Optional = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class GroupChoice:
    """One group: what its linear layers got, the bytes of its weights, scales and optional tensors, and the task loss
    that 4 bits for it alone make.
    """

    scheme: str
    bytes: int
    loss: float


@dataclass(frozen=True)
class Choice:
    """budget: bytes at most. schemes: {site: scheme}; groups: the same in short, for people and the checkpoint."""

    budget: int
    schemes: dict[str, Scheme]
    groups: dict[str, GroupChoice]

    def to_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"bytes": self.budget, "groups": {name: asdict(each) for name, each in self.groups.items()}}


def format_groups(choice: Mapping[str, Any]) -> str:
    """What `Choice.to_dict` says, one line a group."""
    groups = choice["groups"].items()
    body = [(name, group["scheme"], group["bytes"] / 1e6, group["loss"]) for name, group in groups]
    return tabulate(body, ("group", "scheme", "MB", "loss at 4 bits"), floatfmt=("", "", ".2f", ".2e"))


@torch.no_grad()
def choose(
    model: Model,
    scheme: Scheme,
    method: Method,
    clips: Sequence[Clip],
    budget: int,
    size_of: SizeOf,
    progress: bool = True,
    journal: str | os.PathLike[str] | None = None,
) -> Choice:
    """Bits of every layer of a float `model`, so that its checkpoint has at most `budget` bytes.

    scheme: the trunk's at 4 bits or fewer; its activations keep its width, or that of the weights if that is more.
    Other layers have 8-bit activations, convolutions float ones. size_of: exact size of the checkpoint of a model on
    the meta device, given the type of its floats. journal: a folder that keeps each loss that was measured.
    Raises InputError if the smallest possible checkpoint is larger, there is no clip, the scheme is static or of
    float8, or the model can't be quantized.
    """
    require_float(model)
    if scheme.static:
        raise InputError(f"a budget needs activation ranges found at run time; leave -static out of {scheme.name}")
    if scheme.float8:
        raise InputError(f"a budget chooses integers of 4 or 8 bits; leave -fp8 out of {scheme.name}")
    if not clips:
        raise InputError("a budget needs a few calibration clips to measure what each layer is worth")
    schemes = {bits: candidates(model, scheme, method, bits) for bits in (LOW, HIGH)}
    record = record_of(scheme, method, clips if method.needs_calibration else ())
    sketch = _Sketch(model, method, schemes, budget, size_of, record, progress)
    sketch.require_room()  # before the passes through the model, and after, when the record has their results too
    low = {group: {site: schemes[LOW][site] for site in sites} for group, sites in sketch.groups.items()}
    losses = measure_losses(model, low, clips, progress, journal)
    sketch.losses = {group: float(f"{losses[group]:.3e}") for group in low}
    sketch.require_room()
    lowered = sketch.fit()
    chosen = {site: schemes[LOW if group in lowered else HIGH][site] for group in low for site in low[group]}
    return Choice(budget, {site: chosen[site] for site in schemes[LOW]}, sketch.describe(lowered))


def candidates(model: Model, scheme: Scheme, method: Method, bits: int) -> dict[str, Scheme]:
    """{site: scheme} with `bits` (LOW or HIGH) for every weight."""
    weight = min(bits, scheme.weight_bits) if bits == LOW else bits
    act = scheme.act_bits if scheme.act_bits == FLOAT_BITS else max(weight, scheme.act_bits)
    if act != scheme.act_bits:  # what suffixes are for is the loss of few bits; asymmetric ranges need 7 or fewer
        scheme = Scheme(weight, act, per_tensor=scheme.per_tensor)
    return resolve_schemes(model, replace(scheme, weight_bits=weight), Scheme(bits, 8), {}, method)


class _Sketch:
    """The quantized model without its numbers, for its exact size."""

    def __init__(
        self,
        model: Model,
        method: Method,
        schemes: Mapping[int, Mapping[str, Scheme]],
        budget: int,
        size_of: SizeOf,
        record: Quantization,
        progress: bool,
    ) -> None:
        self.budget, self.size_of, self.record, self.schemes = budget, size_of, record, schemes
        with torch.device("meta"):
            self.model = build(model.config).to(model.dtype)
        sites = all_sites(model)
        self.floats = _stored_dtype(model, sites)
        self.groups: dict[str, list[str]] = {}
        for site, group in site_groups(model).items():
            self.groups.setdefault(group, []).append(site)
        empty = all_sites(self.model)
        self.layers: dict[tuple[int, str], QuantWeight] = {}
        for bits, own in schemes.items():
            optional = optional_tensors(model, method, own, progress)
            for site, scheme in own.items():
                self.layers[bits, site] = empty_layer(empty[site], scheme, optional.get(site, {}), "meta")
        self.losses = dict.fromkeys(self.groups, 0.0)

    def bytes(self, group: str, bits: int) -> int:
        """What the integers and scales of a group take."""
        return sum(self.layers[bits, site].checkpoint_bytes for site in self.groups[group])

    def saved(self, group: str) -> int:
        """What LOW saves, without the names."""
        return self.bytes(group, HIGH) - self.bytes(group, LOW)

    def size(self, lowered: set[str]) -> int:
        """Exact bytes of the checkpoint if these groups are at LOW."""
        for group, sites in self.groups.items():
            for site in sites:
                self.model.set_submodule(site, self.layers[LOW if group in lowered else HIGH, site])
        choice = Choice(self.budget, {}, self.describe(lowered)).to_dict()
        self.model.quantization = replace(self.record, settings={**self.record.settings, "budget": choice})
        return self.size_of(self.model, self.floats)

    def require_room(self) -> None:
        """Raises InputError if even the smallest checkpoint is larger than the budget."""
        least = self.size(set(self.groups))
        if least > self.budget:
            raise InputError(
                f"a budget of {self.budget} bytes is too small: the smallest possible checkpoint has {least} bytes"
            )

    def describe(self, lowered: set[str]) -> dict[str, GroupChoice]:
        """Of every group, in the order of the sites."""
        result = {}
        for group, sites in self.groups.items():
            bits = LOW if group in lowered else HIGH
            names = [self.schemes[bits][site].name for site in sites]
            result[group] = GroupChoice(names[0], self.bytes(group, bits), self.losses[group])
        return result

    def fit(self) -> set[str]:
        """Which groups go down."""
        order = sorted(self.groups, key=lambda group: self.losses[group] / max(1, self.saved(group)))
        fewest, most = 0, len(order)  # all of them fit
        while fewest < most:
            middle = (fewest + most) // 2
            if self.size(set(order[:middle])) <= self.budget:
                most = middle
            else:
                fewest = middle + 1
        lowered = set(order[:most])
        room = self.budget - self.size(lowered)
        for group in reversed(order[:most]):
            if self.saved(group) <= room and self.size(lowered - {group}) <= self.budget:
                lowered -= {group}
                room = self.budget - self.size(lowered)
        return lowered


def optional_tensors(
    model: Model, method: Method, schemes: Mapping[str, Scheme], progress: bool
) -> dict[str, Optional]:
    """{site: shapes of the optional tensors that `method` gives it}, of the layers of all blocks.

    Found by solving one block of each kind on a small picture: blocks of the same shapes and schemes are alike.
    """
    side = 2 * model.patch_size
    images = torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    shapes: dict[str, Optional] = {}
    alike: dict[Any, dict[str, Optional]] = {}
    for part in tqdm(model.parts, "sizes", unit="part", leave=False, disable=not progress):
        stream = Stream.start(part, model, [Clip(images, ["small"])])
        for place in part.places:
            own = {layer: schemes[site] for layer, site in zip(place.layers, place.sites, strict=True)}
            block = model.get_submodule(place.name)
            kind = part.special, *((own[layer], block.get_submodule(layer).weight.shape) for layer in own)
            if kind not in alike:
                task = BlockTask(place, copy.deepcopy(block), own, stream, stream)
                layers = method.solve(task)
                alike[kind] = {layer: optional_shapes(dict(x.named_buffers())) for layer, x in layers.items()}
            shapes |= {site: alike[kind][layer] for layer, site in zip(place.layers, place.sites, strict=True)}
    return shapes


def _stored_dtype(model: Model, sites: Mapping[str, nn.Module]) -> torch.dtype:
    """How the checkpoint stores what isn't quantized: in 16 bits unless a number is beyond float16."""
    if model.dtype != torch.float32:
        return model.dtype
    floats = (x for name, x in model.state_dict().items() if name.rpartition(".")[0] not in sites)
    return torch.float16 if all(x.half().isfinite().all() for x in floats) else torch.float32
