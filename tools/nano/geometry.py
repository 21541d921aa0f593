"""Targets in the first camera's frame, and the differentiable geometry of predicted poses."""

import torch
from torch import Tensor

from nano.data import Batch


def unproject(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """z-depth [..., H, W] and intrinsics [..., 3, 3] -> points in the camera's frame [..., H, W, 3]."""
    height, width = depth.shape[-2:]
    x = torch.arange(width, device=depth.device) + 0.5
    y = torch.arange(height, device=depth.device) + 0.5
    focal, centre = intrinsics.diagonal(dim1=-2, dim2=-1)[..., :2], intrinsics[..., :2, 2]
    x = (x - centre[..., :1]) / focal[..., :1]
    y = (y - centre[..., 1:]) / focal[..., 1:]
    return torch.stack([x[..., None, :] * depth, y[..., :, None] * depth, depth], -1)


def to_world(points: Tensor, extrinsics: Tensor) -> Tensor:
    """Camera-frame points [..., H, W, 3] -> the frame that the extrinsics [..., 3, 4] map from."""
    rotation, translation = extrinsics[..., :3], extrinsics[..., 3]
    return (points - translation[..., None, None, :]) @ rotation[..., None, :, :]


def relative_to_first(extrinsics: Tensor) -> Tensor:
    """World-to-camera [B, S, 3, 4] -> first-camera-to-camera [B, S, 3, 4]."""
    rotation, translation = extrinsics[..., :3], extrinsics[..., 3:]
    relative = rotation @ rotation[:, :1].mT
    return torch.cat([relative, translation - relative @ translation[:, :1]], -1)


def add_targets(batch: Batch) -> Batch:
    """Add what VGGT regresses: first-camera frame, scaled so that the mean distance of the points to its origin is 1.

    New keys: valid [B, S, H, W]; world (points, metres, the renderer's world), poses [B, S, 3, 4], scaled_depth
    [B, S, H, W], points [B, S, H, W, 3] in the first camera's frame.
    """
    depth, intrinsics = batch["depth"], batch["intrinsics"]
    valid = depth > 0
    camera = unproject(depth, intrinsics)
    poses = relative_to_first(batch["extrinsics"])
    points = to_world(camera, poses)
    distance = points.norm(dim=-1) * valid
    scale = distance.sum((1, 2, 3)) / valid.sum((1, 2, 3))
    poses = torch.cat([poses[..., :3], poses[..., 3:] / scale[:, None, None, None]], -1)
    return batch | {
        "valid": valid,
        "world": to_world(camera, batch["extrinsics"]),
        "poses": poses,
        "scaled_depth": depth / scale[:, None, None, None],
        "points": points / scale[:, None, None, None, None],
    }


def rotation_of(quaternion: Tensor) -> Tensor:
    """Quaternion [..., 4], xyzw, of any non-zero length -> rotation matrix [..., 3, 3]."""
    x, y, z, w = (quaternion / quaternion.norm(dim=-1, keepdim=True).clamp_min(1e-6)).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)], -1),
        torch.stack([2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)], -1),
        torch.stack([2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def pair_errors(rotation: Tensor, translation: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Relative-pose errors of all frame pairs i < j, in radians: rotation and translation direction, each [B, pairs].

    rotation [B, S, 3, 3], translation [B, S, 3]: predicted world-to-camera; truth [B, S, 3, 4]. The relative pose is
    E_i^-1 E_j, as in the published evaluation. Written with chords, so that the gradient stays bounded at zero error.
    Opposite translation directions count as different.
    """
    first, second = torch.triu_indices(rotation.shape[1], rotation.shape[1], 1, device=rotation.device)

    def relative(r: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        back = r[:, first].mT
        move = (back @ (t[:, second] - t[:, first])[..., None])[..., 0]
        return back @ r[:, second], move / (move.norm(dim=-1, keepdim=True) + 1e-6)

    turn, move = relative(rotation, translation)
    true_turn, true_move = relative(truth[..., :3], truth[..., 3])
    turn_chord = ((turn - true_turn).square().sum((-2, -1)) + 1e-8).sqrt() / 8**0.5
    move_chord = ((move - true_move).square().sum(-1) + 1e-8).sqrt() / 2
    return 2 * torch.asin(turn_chord.clamp_max(0.999)), 2 * torch.asin(move_chord.clamp_max(0.999))
