"""Cameras in and out of Depth-Anything-3: both are pose encodings (`models.pose`), camera-to-world."""

import torch
from torch import Tensor, nn

from quantvggt.models.da3.config import ENCODER_HEADS
from quantvggt.models.pose import compose, decode_pose, encode_pose, invert
from quantvggt.nn.block import Block, Mlp

POSE_SIZE = 9
FLATTEST = 1e-6  # of the tangent of half a field of view
LEAST_DISTANCE = 0.1
_ENCODER_DEPTH = 4


class CameraDecoder(nn.Module):
    """Camera tokens [.., 2C] -> pose encodings [.., 9], float32."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.ReLU())
        self.fc_t = nn.Linear(dim, 3)
        self.fc_qvec = nn.Linear(dim, 4)
        self.fc_fov = nn.Sequential(nn.Linear(dim, 2), nn.ReLU())

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.backbone(tokens)
        return torch.cat((self.fc_t(x), self.fc_qvec(x), self.fc_fov(x)), dim=-1).float()


class CameraEncoder(nn.Module):
    """World-to-camera [B, S, 3, 4] and intrinsics [B, S, 3, 3] of height x width frames -> tokens [B, S, C]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.pose_branch = Mlp(POSE_SIZE, dim // 2, dim)
        self.token_norm = nn.LayerNorm(dim)
        self.trunk = nn.Sequential(*(Block(dim, ENCODER_HEADS) for _ in range(_ENCODER_DEPTH)))
        self.trunk_norm = nn.LayerNorm(dim)

    def forward(self, extrinsics: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
        return self.trunk_norm(self.trunk(self.start(extrinsics, intrinsics, height, width)))

    def start(self, extrinsics: Tensor, intrinsics: Tensor, height: int, width: int) -> Tensor:
        """What the first block gets."""
        pose = encode_pose(invert(extrinsics), intrinsics, height, width)
        return self.token_norm(self.pose_branch(pose.to(self.token_norm.weight.dtype)))


def decode(pose: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Pose [.., 9] -> world-to-camera [.., 3, 4] and intrinsics [.., 3, 3]; a field of view of zero has a huge focal
    length, as published."""
    back, intrinsics = decode_pose(pose, height, width, FLATTEST)
    return invert(back), intrinsics


def as_trained(extrinsics: Tensor) -> Tensor:
    """World-to-camera [S, 3, 4] in any world and unit as the encoder knows them: the first camera is the world, and
    translations are divided by the median of all distances from it, its own 0 among them, or by 0.1 if that is less."""
    seen = compose(extrinsics, invert(extrinsics[:1]))
    distance = invert(seen)[:, :, 3].norm(dim=-1).median().clamp(min=LEAST_DISTANCE)
    return torch.cat((seen[:, :, :3], seen[:, :, 3:] / distance), dim=-1)
