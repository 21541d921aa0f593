"""The loop from a float model to a quantized one, block by block as they run."""

import fnmatch
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from quantvggt.calibrate.importance import Importance
from quantvggt.calibrate.journal import Journal, fingerprint
from quantvggt.calibrate.lending import copy_on, lend
from quantvggt.calibrate.methods import Method, make_method, needs_clips, require_numbers
from quantvggt.calibrate.methods.base import BlockTask
from quantvggt.calibrate.rest import rest_scheme, round_layer
from quantvggt.calibrate.static import with_static_ranges
from quantvggt.calibrate.stream import Stream
from quantvggt.core.errors import InputError
from quantvggt.core.scheme import Scheme
from quantvggt.models import Model
from quantvggt.models.family import Part, Place
from quantvggt.models.quantization import Quantization
from quantvggt.models.sites import all_sites, quantizable_sites
from quantvggt.nn.quant_linear import QuantLinear
from quantvggt.nn.tensors import TENSORS
from quantvggt.scenes.clip import Clip

SiteSchemes = Mapping[str, str | Scheme]


@torch.no_grad()
def quantize(
    model: Model,
    scheme: str | Scheme,
    method: str,
    clips: Sequence[Clip] = (),
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    progress: bool = True,
    site_schemes: SiteSchemes | None = None,
    journal: str | os.PathLike[str] | None = None,
    device: str | torch.device | None = None,
    rest: str | Scheme | None = None,
    choice: Mapping[str, Any] | None = None,
) -> Model:
    """A new model whose frame and global blocks compute in few bits; `model` itself stays as it was.

    scheme: a preset such as "w4a4", or a Scheme. method: a name in `calibrate.methods.METHODS`, with its
    `settings`; `seed` is that of its randomness. clips: the calibration set; "rtn" needs none.
    progress: a bar on stderr. rest: scheme of what the paper leaves at 16 bits (`models.sites.rest_sites`; convolutions
    keep float activations), None leaves it so. site_schemes: mixed precision, {pattern: scheme} with shell-style
    patterns on site names ("*.mlp.fc2"); the last that fits counts. Without `rest` a pattern means other layers than
    the trunk's only if it fits none of those. journal: a folder that keeps finished blocks, so that the same call after
    an interruption goes on where it stopped, with the same result; `journal.discard` it when the result is saved.
    device: where the work is done, the model's own by default; of another one it takes what `lending` says. Tokens
    between blocks stay on the CPU. choice: why `site_schemes` are what they are, for the record; see
    `calibrate.budget`.

    Parameters that are not quantized are rounded to float16 if the model is float32, so that the checkpoint
    can store all of them in 16 bits without changing one output.
    Raises InputError on an unknown scheme, method, setting or pattern, a scheme that isn't for the method, a missing
    calibration set, or a model that is quantized already.
    """
    scheme, solver = Scheme.parse(scheme), make_method(method, settings, seed)
    require_float(model)
    require_numbers(solver, scheme, rest, *(site_schemes or {}).values())
    schemes = resolve_schemes(model, scheme, None if rest is None else Scheme.parse(rest), site_schemes or {}, solver)
    takes_clips = needs_clips(solver, *schemes.values())
    if takes_clips and not clips:
        static = next((each.name for each in schemes.values() if each.static), "")
        what = f"method {method}" if solver.needs_calibration else f"scheme {static}"
        raise InputError(f"{what} needs a calibration set: give it a few clips of the scenes you care about")
    clips = clips if takes_clips else ()

    quantized = model.sharing_copy()
    record = {"method": solver.name, "settings": asdict(solver), "schemes": {k: v.name for k, v in schemes.items()}}
    pages = Journal(journal, fingerprint(model, clips, record)) if journal is not None else None
    _run(model, quantized, solver, schemes, clips, pages, torch.device(device or model.device), progress)
    _round_to_float16(quantized)
    quantized.quantization = record_of(scheme, solver, clips, choice)
    return quantized


def require_float(model: Model) -> None:
    """Raises InputError if `model` can't be quantized: it is already, or computes in mixed precision."""
    if model.quantization is not None:
        raise InputError(
            f"the model is quantized already ({model.quantization.method}, {model.quantization.scheme.name}); "
            "start from the full-precision model"
        )
    if model.products is not None:
        raise InputError('a model in mixed precision is for inference; load it without dtype="mixed" to quantize it')


def record_of(
    scheme: Scheme, method: Method, clips: Sequence[Clip], choice: Mapping[str, Any] | None = None
) -> Quantization:
    """What a model that is quantized like this carries."""
    return Quantization(
        scheme=scheme,
        method=method.name,
        settings=asdict(method) | ({} if choice is None else {"budget": dict(choice)}),
        calibration={"clips": [clip.record() for clip in clips]} if clips else {},
    )


def _run(
    model: Model,
    quantized: Model,
    method: Method,
    schemes: Mapping[str, Scheme],
    clips: Sequence[Clip],
    journal: Journal | None,
    device: torch.device,
    progress: bool,
) -> None:
    """The layers that stand alone, then the model's parts, each on what the parts before it give."""
    indices = [index for index, part in enumerate(model.parts) if _concerns(part, schemes)]
    of_blocks = {site for index in indices for place in model.parts[index].places for site in place.sites}
    alone = [name for name in schemes if name not in of_blocks]
    total = sum(len(model.parts[index].places) for index in indices) * max(1, method.ticks) + len(alone)
    there = lend(model, device)
    with tqdm(total=total, desc=method.name, unit="step", disable=not progress) as bar:
        importance = method.prepare(there, clips, progress)
        for name in alone:
            rounded = round_layer(there.get_submodule(name), schemes[name], search=method.needs_calibration)
            quantized.set_submodule(name, rounded.to(model.device))
            bar.update()
        del there
        for index in indices:
            _run_part(index, model, quantized, device, method, schemes, clips, importance, journal, bar)


def _run_part(
    index: int,
    model: Model,
    quantized: Model,
    device: torch.device,
    method: Method,
    schemes: Mapping[str, Scheme],
    clips: Sequence[Clip],
    importance: Mapping[str, Importance],
    journal: Journal | None,
    bar: "tqdm[Any]",
) -> None:
    """The part of that index."""
    # A method that neither sees the float stream nor learns its outputs never asks for it.
    follows_floats = method.input_stream == "float" or method.ticks > 0
    floats = _start(index, lend(model if follows_floats else quantized, device), clips)
    actual = _start(index, lend(quantized, device), clips) if method.input_stream == "quantized" else None
    for place in floats.part.places:
        block = copy_on(model.get_submodule(place.name), device)
        task = _task(place, block, schemes, actual or floats, floats, importance, bar)
        layers = _solve(task, method, schemes, journal, bar)
        floats = task.targets if follows_floats else floats
        _put(layers, block, device)
        if actual is not None:
            actual = actual.after(block, place)
        _put(layers, quantized.get_submodule(place.name), quantized.device)
        del block, task, layers  # before the next one comes to the device


def _start(index: int, model: Model, clips: Sequence[Clip]) -> Stream:
    """In front of the first block of the part of that index."""
    return Stream.start(model.parts[index], model, clips)


def _put(layers: Mapping[str, QuantLinear], block: nn.Module, device: torch.device) -> None:
    for layer, module in layers.items():
        block.set_submodule(layer, module.to(device))


def _solve(
    task: BlockTask, method: Method, schemes: Mapping[str, Scheme], journal: Journal | None, bar: "tqdm[Any]"
) -> dict[str, QuantLinear]:
    """The block's quantized layers, from the journal if they are there."""
    before = bar.n
    layers = journal.read(task.place.name) if journal is not None else None
    if layers is None:
        layers = with_static_ranges(task, method.solve(task), schemes)
        if journal is not None:
            journal.write(task.place.name, layers)
    bar.update(before + max(1, method.ticks) - bar.n)
    return layers


def _concerns(part: Part, schemes: Mapping[str, Scheme]) -> bool:
    return any(site in schemes for place in part.places for site in place.sites)


def _task(
    place: Place,
    block: nn.Module,
    schemes: Mapping[str, Scheme],
    inputs: Stream,
    floats: Stream,
    importance: Mapping[str, Importance],
    bar: "tqdm[Any]",
) -> BlockTask:
    own = {layer: schemes[site] for layer, site in zip(place.layers, place.sites, strict=True) if site in schemes}

    def tick(words: str) -> None:
        bar.set_postfix_str(f"{place.name}, {words}", refresh=False)
        bar.update()

    # Static ranges are read off the finished layer; until then it computes with dynamic ones.
    dynamic = {layer: replace(scheme, static=False) for layer, scheme in own.items()}
    static = [layer for layer, scheme in own.items() if scheme.static]
    return BlockTask(place, block, dynamic, inputs, floats, importance.get(place.name), tick, static)


def resolve_schemes(
    model: Model, scheme: Scheme, rest: Scheme | None, patterns: SiteSchemes, method: Method
) -> dict[str, Scheme]:
    """Every layer that is to be quantized and its scheme, in the order of `all_sites`."""
    sites = all_sites(model)
    chosen = dict.fromkeys(quantizable_sites(model), scheme)
    if rest is not None:
        chosen = dict.fromkeys(sites, rest) | chosen
    for pattern, other in patterns.items():
        # What is not to be quantized anyway has to be meant.
        fitting = fnmatch.filter(chosen, pattern) or fnmatch.filter(sites, pattern)
        if not fitting:
            raise InputError(f"no site fits {pattern!r}; they are named like {next(iter(sites))}")
        chosen |= dict.fromkeys(fitting, Scheme.parse(other))
    of_pictures = {site for part in model.parts if part.special for place in part.places for site in place.sites}
    return {
        name: method.refine(chosen[name]) if name in of_pictures else rest_scheme(chosen[name], module)
        for name, module in sites.items()
        if name in chosen
    }


def _round_to_float16(model: Model) -> None:
    """Give what isn't quantized float16 values, still in float32; tensors it shares with another model don't change."""
    state = model.state_dict()
    for name, value in state.items():
        if value.dtype == torch.float32 and name.rpartition(".")[2] not in TENSORS:
            rounded = value.half().float()
            state[name] = rounded if rounded.isfinite().all() else value
    model.load_state_dict(state, assign=True)
