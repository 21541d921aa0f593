"""How far a model's answers move when one part of it gets fewer bits: what a budget spends its bytes by."""

import os
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from quantvggt.calibrate.journal import Journal, fingerprint
from quantvggt.calibrate.rest import round_layer
from quantvggt.core.scheme import Scheme
from quantvggt.models import Answers, Model
from quantvggt.models.answers import quantities, units
from quantvggt.models.family import Features
from quantvggt.scenes.clip import Clip

FRAMES = 2  # of the calibration set's first clip
DENSE_FRAMES = 1
QUERIES = 4  # points each way in the tracker's grid
WORST = 1e9


@torch.inference_mode()
def measure_losses(
    model: Model,
    groups: Mapping[str, Mapping[str, Scheme]],
    clips: Sequence[Clip],
    progress: bool,
    folder: str | os.PathLike[str] | None = None,
) -> dict[str, float]:
    """{group: task loss when only its layers are quantized, {site: scheme}, round to nearest}.

    That takes, for each group, the first FRAMES frames of the first clip through the aggregator from the group's first
    block on and through the heads, or through the group's own head. Every float block's output stays in memory: 0.6 GB
    for VGGT-1B at 518x392 in float32. `model` stays as it was. folder: a journal's, which keeps each loss.
    """
    losses, journal = dict[str, float](), None
    if folder is not None:
        schemes_of = {group: {site: each.name for site, each in sites.items()} for group, sites in groups.items()}
        journal = Journal(folder, fingerprint(model, clips[:1], {"frames": FRAMES, "groups": schemes_of}))
        losses = journal.read_losses()
    if not (missing := {group: schemes for group, schemes in groups.items() if group not in losses}):
        return losses
    images = clips[0].images[None, :FRAMES].to(model.device, model.dtype)
    features, recalled = _float_pass(model, images)
    expected = _answers(model, images, features, model.heads)
    changed = model.sharing_copy()
    for group, schemes in tqdm(missing.items(), desc="sensitivity", unit="group", disable=not progress):
        replaced = _blocks_before(schemes, recalled)
        for site, scheme in schemes.items():
            replaced[site] = round_layer(model.get_submodule(site), scheme, search=False)
        own = {name: changed.get_submodule(name) for name in replaced}
        for name, module in replaced.items():
            changed.set_submodule(name, module)
        heads = model.heads_behind(list(schemes))
        losses[group] = task_loss(_answers(changed, images, changed.encode(images), heads), expected)
        for name, module in own.items():
            changed.set_submodule(name, module)
        if journal is not None:
            journal.write_losses(losses)
    return losses


class _Recalled(nn.Module):
    """In a block's place: what the float block gave."""

    def __init__(self, output: Tensor) -> None:
        super().__init__()
        self.output = output

    def forward(self, *_: object) -> Tensor:
        return self.output


def _float_pass(model: Model, images: Tensor) -> tuple[Features, dict[str, _Recalled]]:
    """What the heads read; and every block that runs before them, in the order they run, as its output."""
    recalled: dict[str, _Recalled] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _, __, output: recalled.update({name: _Recalled(output)})

    route = [place.name for part in model.parts for place in part.places]
    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in route]
    try:
        features = model.encode(images)
    finally:
        for handle in handles:
            handle.remove()
    return features, recalled


def _blocks_before(schemes: Mapping[str, Scheme], recalled: Mapping[str, _Recalled]) -> dict[str, nn.Module]:
    """Those that run before any of these layers, so that their outputs don't change."""
    result: dict[str, nn.Module] = {}
    for name, output in recalled.items():
        if any(site.startswith(f"{name}.") for site in schemes):
            break
        result[name] = output
    return result


def task_loss(answers: Answers, expected: Answers) -> float:
    """Mean squared errors without unit, summed over what the heads say of the first clip (`models.answers`).

    Only the heads that `answers` has count. A number that isn't finite counts as the worst of all.
    """
    shown = expected.like(answers)
    errors = zip(quantities(answers), quantities(shown), units(shown), strict=True)
    total = sum(((value - truth) / unit.to(truth)).double().square().mean().item() for value, truth, unit in errors)
    return total if total < WORST else WORST


def _answers(model: Model, images: Tensor, features: Features, heads: Sequence[str]) -> Answers:
    height, width = images.shape[-2:]
    queries = None
    if "track" in heads and model.can_track(height, width):
        x, y = (torch.linspace(0.1, 0.9, QUERIES, device=images.device) * side for side in (width, height))
        queries = torch.cartesian_prod(x, y)[None]
    return model.read(features, images, heads, range(DENSE_FRAMES), queries)
