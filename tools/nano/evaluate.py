"""A compact evaluation on held-out scenes for the training log; `quantvggt evaluate` is the full one."""

import torch
from torch import Tensor

from nano.data import batch_of
from nano.geometry import add_targets
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
        turn, heading = pair_errors_degrees(extrinsics[0].double(), batch["poses"][0].double())
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
    worst = torch.maximum(torch.cat(turns), torch.cat(headings)).cpu()
    row = {f"auc{limit}": auc(worst, limit) for limit in THRESHOLDS}
    row["median_turn"] = float(torch.cat(turns).median())
    row["median_heading"] = float(torch.cat(headings).median())
    return row | dict(zip(("absrel", "points", "fov"), (totals / len(seeds)).tolist(), strict=True))


def pair_errors_degrees(extrinsics: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """World-to-camera [S, 3, 4] twice -> rotation and translation-direction errors of all pairs, degrees.

    As published, the direction's sign is ignored.
    """
    first, second = torch.triu_indices(len(truth), len(truth), 1)

    def relative(e: Tensor) -> tuple[Tensor, Tensor]:
        turn = e[second, :, :3] @ e[first, :, :3].mT
        return turn, e[second, :, 3] - (turn @ e[first, :, 3:])[..., 0]

    (turn, move), (true_turn, true_move) = relative(extrinsics), relative(truth)
    cosine = ((turn @ true_turn.mT).diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    direction = torch.nn.functional.cosine_similarity(move, true_move, dim=-1).abs()
    return cosine.clamp(-1, 1).acos().rad2deg(), direction.clamp(0, 1).acos().rad2deg()


def auc(error: Tensor, limit: int) -> float:
    """Mean over 1..limit degrees of the share of pairs whose error is below it."""
    return float(torch.stack([(error < bound).double().mean() for bound in range(1, limit + 1)]).mean())


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
