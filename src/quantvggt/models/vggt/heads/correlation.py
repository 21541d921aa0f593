"""Correlation of point features with feature maps at several scales, and bilinear look-ups."""

import torch
import torch.nn.functional as F
from torch import Tensor


def sample(maps: Tensor, points: Tensor, padding: str = "border") -> Tensor:
    """maps [B, C, h, w], points [B, R, 2] (x, y in cells, 0 = centre of the first) -> bilinear values [B, R, C]."""
    size = points.new_tensor([max(side - 1, 1) for side in (maps.shape[-1], maps.shape[-2])])
    grid = (points * (2 / size) - 1)[:, :, None].to(maps.dtype)
    return F.grid_sample(maps, grid, align_corners=True, padding_mode=padding)[..., 0].transpose(1, 2)


class CorrelationPyramid:
    """Dot products of features with the neighbourhood of each point, on `levels` halvings of the maps."""

    def __init__(self, maps: Tensor, levels: int, radius: int) -> None:
        batch, frames = maps.shape[:2]
        self.levels = [maps]
        for _ in range(levels - 1):
            smaller = F.avg_pool2d(self.levels[-1].flatten(0, 1), 2, stride=2)
            self.levels.append(smaller.unflatten(0, (batch, frames)))
        steps = torch.arange(-radius, radius + 1, device=maps.device, dtype=torch.float32)
        # The published grid puts the first axis of the window on x: windows are read column by column.
        self.window = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), dim=-1).flatten(0, 1)

    def __call__(self, features: Tensor, coordinates: Tensor) -> Tensor:
        """features [B, S, N, F], coordinates float32 [B, S, N, 2] -> [B, S, N, levels * (2 radius + 1)^2]."""
        lead, channels = features.shape[:3], features.shape[-1]
        found = []
        for level, maps in enumerate(self.levels):
            height, width = maps.shape[-2:]
            products = features @ maps.flatten(3) / channels**0.5  # [B, S, N, h * w]
            points = coordinates.flatten(0, 2)[:, None] / 2**level + self.window
            values = sample(products.reshape(-1, 1, height, width), points, padding="zeros")
            found.append(values.reshape(*lead, -1))
        return torch.cat(found, dim=-1)
