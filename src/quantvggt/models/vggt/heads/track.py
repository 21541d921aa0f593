"""The track head: follows query points through all frames (VGGT, section 3.3; after CoTracker, arXiv 2307.07635).

Symbols: B batch, S frames, N query points, F = 128 feature channels, h x w the feature map (half the image).
"""

import torch
from torch import Tensor, nn

from quantvggt.models.vggt.heads.correlation import CorrelationPyramid, sample
from quantvggt.models.vggt.heads.update import UpdateFormer
from quantvggt.nn.block import Mlp

FEATURES = 128
HIDDEN = 384
STRIDE = 2
LEVELS = 7
RADIUS = 4
ITERATIONS = 4
MAX_FLOW = 518.0
STEP_SIZE = 3 * FEATURES + 4  # flow embedding F + 2 * flow 2, correlation F, feature F


class Tracker(nn.Module):
    """Iteratively refines the place of every query point in every frame."""

    def __init__(self) -> None:
        super().__init__()
        self.corr_mlp = Mlp(LEVELS * (2 * RADIUS + 1) ** 2, HIDDEN, FEATURES)
        self.query_ref_token = nn.Parameter(torch.randn(1, 2, STEP_SIZE))
        self.updateformer = UpdateFormer(STEP_SIZE, HIDDEN, FEATURES + 2)
        self.fmap_norm = nn.LayerNorm(FEATURES)
        self.ffeat_norm = nn.GroupNorm(1, FEATURES)
        self.ffeat_updater = nn.Sequential(nn.Linear(FEATURES, FEATURES), nn.GELU())
        self.vis_predictor = nn.Sequential(nn.Linear(FEATURES, 1))
        self.conf_predictor = nn.Sequential(nn.Linear(FEATURES, 1))

    def forward(self, queries: Tensor, maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """queries float32 [B, N, 2] (x, y in pixels of frame 0), maps [B, S, F, h, w].

        Returns track float32 [B, S, N, 2] in pixels, visibility and confidence float32 [B, S, N] in [0, 1].
        """
        frames, dtype = maps.shape[1], maps.dtype
        maps = self.fmap_norm(maps.movedim(2, -1)).movedim(-1, 2)
        start = (queries.float() / STRIDE)[:, None].expand(-1, frames, -1, -1)
        features = sample(maps[:, 0], start[:, 0])[:, None].expand(-1, frames, -1, -1)
        place = sample(
            _map_embedding(maps.shape[-2], maps.shape[-1], maps.device).to(dtype).expand(len(maps), -1, -1, -1),
            start[:, 0],
        )
        reference = torch.cat(
            (self.query_ref_token[:, :1], self.query_ref_token[:, 1:].expand(-1, frames - 1, -1)), dim=1
        )
        pyramid = CorrelationPyramid(maps, LEVELS, RADIUS)

        coordinates = start
        for _ in range(ITERATIONS):
            coordinates = coordinates.detach()
            correlation = self.corr_mlp(pyramid(features, coordinates))
            flow = coordinates - coordinates[:, :1]
            motion = torch.cat((_flow_embedding(flow), flow / MAX_FLOW, flow / MAX_FLOW), dim=-1).to(dtype)
            step = torch.cat((motion, correlation, features), dim=-1)  # [B, S, N, STEP_SIZE]
            step = step + place[:, None] + reference[:, :, None]
            delta = self.updateformer(step)
            features = features + self._update(delta[..., 2:])
            moved = coordinates + delta[..., :2].float()
            coordinates = torch.cat((start[:, :1], moved[:, 1:]), dim=1)  # the query's own frame is given
        visibility = self.vis_predictor(features).squeeze(-1).float().sigmoid()
        confidence = self.conf_predictor(features).squeeze(-1).float().sigmoid()
        return coordinates * STRIDE, visibility, confidence

    def _update(self, delta: Tensor) -> Tensor:
        return self.ffeat_updater(self.ffeat_norm(delta.flatten(0, -2))).view(delta.shape)


def _flow_embedding(flow: Tensor) -> Tensor:
    """flow [..., 2] -> [..., F]: interleaved sine and cosine of x, then of y."""
    half = FEATURES // 2
    frequencies = torch.arange(0, half, 2, device=flow.device, dtype=torch.float32) * (1000.0 / half)
    angles = flow[..., None] * frequencies
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-3)


def _map_embedding(height: int, width: int, device: torch.device) -> Tensor:
    """Sine-cosine embedding of every cell of the feature map: [1, STEP_SIZE, h, w], first x then y."""
    quarter = STEP_SIZE // 4
    omega = 10000.0 ** -(torch.arange(quarter, dtype=torch.float64, device=device) / quarter)

    def embed(count: int) -> Tensor:
        angles = omega[:, None] * torch.arange(count, dtype=torch.float64, device=device)
        return torch.cat((angles.sin(), angles.cos())).float()

    x = embed(width)[:, None, :].expand(-1, height, -1)
    y = embed(height)[:, :, None].expand(-1, -1, width)
    return torch.cat((x, y))[None]
