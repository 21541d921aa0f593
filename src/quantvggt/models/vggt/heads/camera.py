"""The camera head: iterative refinement of one pose per frame (VGGT, section 3.3)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.nn.block import Block, Mlp

ITERATIONS = 4
POSE_SIZE = 9  # translation 3, quaternion 4, vertical and horizontal field of view


class CameraHead(nn.Module):
    """Camera tokens [B, S, 2C] -> pose encodings [B, S, 9] (float32) after every refinement; the last is the answer."""

    def __init__(self, dim: int, depth: int, num_heads: int) -> None:
        super().__init__()
        self.trunk = nn.Sequential(*(Block(dim, num_heads) for _ in range(depth)))
        self.token_norm = nn.LayerNorm(dim)
        self.trunk_norm = nn.LayerNorm(dim)
        self.empty_pose_tokens = nn.Parameter(torch.zeros(1, 1, POSE_SIZE))
        self.embed_pose = nn.Linear(POSE_SIZE, dim)
        self.poseLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(dim, 3 * dim))
        self.pose_branch = Mlp(dim, dim // 2, POSE_SIZE)

    def forward(self, tokens: Tensor, cut: bool = True) -> list[Tensor]:
        """cut: no gradient flows from one refinement to the next, which is how the published model was trained."""
        tokens = self.token_norm(tokens)
        normalised = F.layer_norm(tokens, tokens.shape[-1:], eps=1e-6)
        empty = self.empty_pose_tokens.expand(*tokens.shape[:2], -1)
        pose: Tensor | None = None
        poses = []
        for _ in range(ITERATIONS):
            if pose is not None and cut:
                pose = pose.detach()
            condition = empty if pose is None else pose.to(empty.dtype)
            shift, scale, gate = self.poseLN_modulation(self.embed_pose(condition)).chunk(3, dim=-1)
            x = self.trunk(tokens + gate * (normalised * (1 + scale) + shift))
            delta = self.pose_branch(self.trunk_norm(x)).float()
            pose = delta if pose is None else pose + delta
            poses.append(torch.cat((pose[..., :7], F.relu(pose[..., 7:])), dim=-1))
        return poses
