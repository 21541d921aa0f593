"""A compact evaluation on held-out scenes for the training log; `quantvggt evaluate` is the full one."""

import numpy as np
import torch
from torch import Tensor

from nano.data import batch_of
from nano.geometry import add_targets
from quantvggt.evaluate.metrics.pose import auc, pose_errors
from quantvggt.models import VGGT
from quantvggt.models.pose import decode_pose, encode_pose

THRESHOLDS = (30, 15, 5, 3)  # degrees


@torch.no_grad()
def evaluate(model: VGGT, seeds: list[int], frames: int, device: torch.device) -> dict[str, float]:
    """Over the scenes of `seeds`: pose AUC at `THRESHOLDS` over all pairs together, median pair errors (degrees),
    depth AbsRel after one median scale a scene, point error relative to the mean distance, FoV error (degrees)."""
    turns, headings, totals = [], [], torch.zeros(3, dtype=torch.float64)
    for seed in seeds:
        batch = {key: value.to(device) for key, value in add_targets(batch_of([seed], frames)).items()}
        height, width = batch["images"].shape[-2:]
        output = model(batch["images"])
        extrinsics, _ = decode_pose(output["pose_enc"].float(), height, width)
        turn, heading = pose_errors(extrinsics[0].cpu().numpy(), batch["poses"][0].cpu().numpy(), "quantvggt")
        turns.append(turn)
        headings.append(heading)
        depth, points = output["depth"][0, ..., 0].double(), output["world_points"][0].double()
        target = encode_pose(batch["poses"], batch["intrinsics"], height, width)
        errors = [
            depth_error(depth, batch["depth"][0].double()),
            point_error(points, batch["points"][0].double(), batch["valid"][0]),
            (output["pose_enc"] - target)[..., 7:].abs().mean().rad2deg().double(),
        ]
        totals += torch.stack(errors).cpu()
    turn, heading = np.concatenate(turns), np.concatenate(headings)
    row = {f"auc{limit}": auc(turn, heading, limit) for limit in THRESHOLDS}
    row |= {"median_turn": float(np.median(turn)), "median_heading": float(np.median(heading))}
    return row | dict(zip(("absrel", "points", "fov"), (totals / len(seeds)).tolist(), strict=True))


def depth_error(depth: Tensor, truth: Tensor) -> Tensor:
    """Mean |d - truth| / truth over valid pixels after one median scale for the scene."""
    valid = truth > 0
    depth, truth = depth[valid], truth[valid]
    return ((depth * (truth.median() / depth.median()) - truth).abs() / truth).mean()


def point_error(points: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    """Mean distance of the predicted to the true points, relative to their mean distance from camera 0, after one
    median scale for the scene."""
    points, truth = points[valid], truth[valid]
    scale = truth.norm(dim=-1).median() / points.norm(dim=-1).median()
    return (points * scale - truth).norm(dim=-1).mean() / truth.norm(dim=-1).mean()
