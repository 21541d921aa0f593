"""How far a model's answers move when one part of it gets fewer bits: what a budget spends its bytes by."""

import os
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

from quantvggt.calibrate.journal import Journal, fingerprint
from quantvggt.calibrate.rest import round_layer
from quantvggt.core.scheme import Scheme
from quantvggt.models import VGGT
from quantvggt.models.pose import decode_pose
from quantvggt.models.vggt import MIN_TRACK_SIDE
from quantvggt.scenes.clip import Clip

CLIPS, FRAMES = 1, 2  # of the calibration set's first clips the first frames
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

    That takes a pass of FRAMES frames through the whole model for each group of the aggregator and clip, and one
    through the heads for any other. `model` stays as it was. folder: a journal's, which keeps each loss.
    """
    losses, journal = dict[str, float](), None
    if folder is not None:
        schemes_of = {group: {site: each.name for site, each in sites.items()} for group, sites in groups.items()}
        journal = Journal(folder, fingerprint(model, clips[:CLIPS], {"frames": FRAMES, "groups": schemes_of}))
        losses = journal.read_losses()
    if not (missing := {group: schemes for group, schemes in groups.items() if group not in losses}):
        return losses
    images = [clip.images[None, :FRAMES].to(model.device, model.dtype) for clip in clips[:CLIPS]]
    tokens = [model.aggregator(each, model.config.layers_read) for each in images]
    floats = [_answers(model, each, read) for each, read in zip(images, tokens, strict=True)]
    changed = model.sharing_copy()
    for group, schemes in tqdm(missing.items(), desc="sensitivity", unit="group", disable=not progress):
        for site, scheme in schemes.items():
            changed.set_submodule(site, round_layer(model.get_submodule(site), scheme, search=False))
        if any(site.startswith("aggregator.") for site in schemes):
            reads = [changed.aggregator(each, model.config.layers_read) for each in images]
        else:
            reads = tokens
        triples = zip(images, reads, floats, strict=True)
        losses[group] = sum(task_loss(_answers(changed, *seen), old) for *seen, old in triples) / len(images)
        for site in schemes:
            changed.set_submodule(site, model.get_submodule(site))
        if journal is not None:
            journal.write_losses(losses)
    return losses


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
