"""How far a model's answers move when one part of it gets fewer bits: what a budget spends its bytes by."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from tqdm import tqdm

from quantvggt.calibrate.journal import Journal, fingerprint
from quantvggt.calibrate.rest import round_layer
from quantvggt.calibrate.stream import dino_places, places
from quantvggt.core.scheme import Scheme
from quantvggt.models import VGGT
from quantvggt.models.pose import decode_pose
from quantvggt.models.vggt.model import MIN_TRACK_SIDE
from quantvggt.scenes.clip import Clip

FRAMES = 2  # of the calibration set's first clip
DENSE_FRAMES = 1
QUERIES = 4  # points each way in the tracker's grid
SMALLEST = 1e-6
WORST = 1e9


@torch.inference_mode()
def measure_losses(
    model: VGGT,
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
    tokens, recalled = _float_pass(model, images)
    expected = _answers(model, images, tokens)
    changed = model.sharing_copy()
    for group, schemes in tqdm(missing.items(), desc="sensitivity", unit="group", disable=not progress):
        replaced = _blocks_before(schemes, recalled)
        for site, scheme in schemes.items():
            replaced[site] = round_layer(model.get_submodule(site), scheme, search=False)
        own = {name: changed.get_submodule(name) for name in replaced}
        for name, module in replaced.items():
            changed.set_submodule(name, module)
        changed.config = replace(model.config, heads=_heads(schemes, model.config.heads))
        answers = _answers(changed, images, changed.aggregator(images, model.config.layers_read))
        losses[group] = task_loss(answers, {name: expected[name] for name in answers})
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


def _float_pass(model: VGGT, images: Tensor) -> tuple[dict[int, Tensor], dict[str, _Recalled]]:
    """What the heads read; and every block of DINOv2 and the trunk, in the order they run, as its output."""
    recalled: dict[str, _Recalled] = {}

    def keep(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _, __, output: recalled.update({name: _Recalled(output)})

    route = [place.name for place in (*dino_places(model), *places(model))]
    handles = [model.get_submodule(name).register_forward_hook(keep(name)) for name in route]
    try:
        tokens = model.aggregator(images, model.config.layers_read)
    finally:
        for handle in handles:
            handle.remove()
    return tokens, recalled


def _blocks_before(schemes: Mapping[str, Scheme], recalled: Mapping[str, _Recalled]) -> dict[str, nn.Module]:
    """Those that run before any of these layers, so that their outputs don't change."""
    result: dict[str, nn.Module] = {}
    for name, output in recalled.items():
        if any(site.startswith(f"{name}.") for site in schemes):
            break
        result[name] = output
    return result


def _heads(schemes: Mapping[str, Scheme], heads: tuple[str, ...]) -> tuple[str, ...]:
    """Those whose answers depend on these layers."""
    if any(site.startswith("aggregator.") for site in schemes):
        return heads
    return tuple(head for head in heads if any(site.startswith(f"{head}_head.") for site in schemes))


def task_loss(answers: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Mean squared errors without unit, summed over tasks, of one clip's answers against `expected`.

    Relative rotations and translations of all pairs of cameras, the latter in units of their root mean square; fields
    of view in radians; depth relative to itself; points relative to their distance from the origin, at least its
    median; tracks in units of the image's diagonal. A number that isn't finite counts as the worst of all.
    """
    total = 0.0
    if "pose_enc" in expected:
        (rotation, moved, view), (rotation_0, moved_0, view_0) = (
            _cameras(each["pose_enc"][0], *each["size"].tolist()) for each in (answers, expected)
        )
        unit = moved_0.square().mean().sqrt().clamp(min=SMALLEST)
        total += _mean_square(rotation - rotation_0) + _mean_square(view - view_0)
        total += _mean_square((moved - moved_0) / unit)
    if "depth" in expected:
        total += _mean_square((answers["depth"] - expected["depth"]) / expected["depth"].clamp(min=SMALLEST))
    if "world_points" in expected:
        distance = expected["world_points"].norm(dim=-1, keepdim=True)
        unit = torch.maximum(distance, distance.median()).clamp(min=SMALLEST)
        total += _mean_square((answers["world_points"] - expected["world_points"]) / unit)
    if "track" in expected:
        total += _mean_square((answers["track"] - expected["track"]) / expected["size"].float().norm())
    return total if total < WORST else WORST


def _answers(model: VGGT, images: Tensor, tokens: dict[int, Tensor]) -> dict[str, Tensor]:
    height, width = images.shape[-2:]
    queries = None
    if "track" in model.config.heads and min(height, width) >= MIN_TRACK_SIDE:
        x, y = (torch.linspace(0.1, 0.9, QUERIES, device=images.device) * side for side in (width, height))
        queries = torch.cartesian_prod(x, y)[None]
    return {**model.read(tokens, images, queries, DENSE_FRAMES), "size": torch.tensor([height, width])}


def _cameras(pose: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pose encodings [S, 9] -> rotations and translations between all pairs, fields of view."""
    extrinsics, _ = decode_pose(pose, height, width)
    rotation, translation = extrinsics[:, :, :3], extrinsics[:, :, 3]
    between = rotation[:, None] @ rotation[None].transpose(-1, -2)
    return between, translation[:, None] - (between @ translation[None, :, :, None])[..., 0], pose[:, 7:]


def _mean_square(error: Tensor) -> float:
    return error.double().square().mean().item()
