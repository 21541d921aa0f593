"""The training losses: VGGT's (pose encoding over the camera head's iterations, confidence-weighted depth and points),
a direct loss on relative poses, and the training-only read-out."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nano.data import Batch
from nano.geometry import pair_errors, rotation_of
from quantvggt.models.pose import encode_pose

ITERATION_DECAY = 0.6  # the camera head's earlier iterations count less
CONFIDENCE_WEIGHT = 0.2  # alpha of VGGT's -alpha log(confidence)


def pose_loss(iterations: list[Tensor], batch: Batch) -> dict[str, Tensor]:
    """L1 on the 9-number encodings [B, S, 9] and angles of all relative poses, later iterations counting more."""
    height, width = batch["images"].shape[-2:]
    target = encode_pose(batch["poses"], batch["intrinsics"], height, width)
    total = {"translation": target.new_zeros(()), "quaternion": target.new_zeros(()), "fov": target.new_zeros(())}
    total |= {"turn": target.new_zeros(()), "heading": target.new_zeros(())}
    weights = [ITERATION_DECAY ** (len(iterations) - 1 - i) for i in range(len(iterations))]
    for weight, encoding in zip(weights, iterations, strict=True):
        weight /= sum(weights)
        total["translation"] += weight * (encoding[..., :3] - target[..., :3]).abs().mean()
        # q and -q are one rotation, and the encoding must jump between them at 180 degrees: accept the nearer one.
        same = (encoding[..., 3:7] - target[..., 3:7]).abs().mean(-1)
        opposite = (encoding[..., 3:7] + target[..., 3:7]).abs().mean(-1)
        total["quaternion"] += weight * torch.minimum(same, opposite).mean()
        total["fov"] += weight * (encoding[..., 7:] - target[..., 7:]).abs().mean()
        turn, heading = pair_errors(rotation_of(encoding[..., 3:7]), encoding[..., :3], batch["poses"])
        total["turn"] += weight * turn.mean()
        total["heading"] += weight * heading.mean()
    return total


def dense_loss(value: Tensor, confidence: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """Confidence-weighted error of values [N, H, W, C], plus that of their image gradients.

    The sky has no value to learn; it pulls its confidence [N, H, W] down to 1 instead.
    """
    error = (value - target).norm(dim=-1)
    regression = (error * confidence - CONFIDENCE_WEIGHT * confidence.log())[valid].mean()
    sky = (confidence.log() * ~valid).mean()
    offset = (value - target) * valid[..., None]
    along_x, both_x = offset[:, :, 1:] - offset[:, :, :-1], valid[:, :, 1:] & valid[:, :, :-1]
    along_y, both_y = offset[:, 1:] - offset[:, :-1], valid[:, 1:] & valid[:, :-1]
    gradient = (along_x.norm(dim=-1) * both_x).mean() + (along_y.norm(dim=-1) * both_y).mean()
    return regression + 0.1 * sky + gradient


class ReadOut(nn.Module):
    """Training only: the absolute camera pose from the camera token, and the world position of each patch's centre
    from its token, read at middle layers.

    The scenes carry world-fixed cues (ground colours, sun), so both can be known from one view; without this help
    the relative pose hardly starts to move.
    """

    def __init__(self, width: int, layers: list[int], patch_size: int) -> None:
        super().__init__()
        self.layers, self.patch_size = layers, patch_size
        self.camera = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 12)) for _ in layers)
        self.patch = nn.ModuleList(nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 3)) for _ in layers)

    def forward(self, outputs: dict[int, Tensor], patch_start: int, batch: Batch) -> dict[str, Tensor]:
        """Aggregator outputs [B, S, tokens, width] by layer -> the two losses."""
        rotation, translation = batch["extrinsics"][..., :3], batch["extrinsics"][..., 3:]
        eye = -(rotation.mT @ translation)[..., 0] / 5
        camera = torch.cat([eye, rotation.flatten(-2)], -1)
        half = self.patch_size // 2
        world = batch["world"][:, :, half :: self.patch_size, half :: self.patch_size].flatten(2, 3) / 5
        seen = batch["valid"][:, :, half :: self.patch_size, half :: self.patch_size].flatten(2, 3)
        total = {"eye": camera.new_zeros(()), "place": camera.new_zeros(())}
        for layer, read_camera, read_patch in zip(self.layers, self.camera, self.patch, strict=True):
            tokens = outputs[layer].float()
            total["eye"] += F.l1_loss(read_camera(tokens[:, :, 0]), camera)
            total["place"] += (read_patch(tokens[:, :, patch_start:]) - world).abs().mean(-1)[seen].mean()
        return {name: value / len(self.layers) for name, value in total.items()}
