"""The sine-cosine position embedding that the dense heads add to their maps."""

import torch
from torch import Tensor

OMEGA = 100.0
GAIN = 0.1


def add_uv_embedding(x: Tensor, aspect: float) -> Tensor:
    """x [n, C, h, w] plus 0.1 * an embedding of each cell's place in an image of width/height = aspect; x is used up.

    The first C/2 channels depend on the column only, the others on the row only; one table, channels last as the maps
    of dense heads have them, serves all n.
    """
    channels, height, width = x.shape[1:]
    diagonal = (aspect**2 + 1) ** 0.5
    u, v = (
        (waves(torch.linspace(-end, end, count, dtype=torch.float64, device=x.device), channels // 2) * GAIN).float()
        for count, end in ((width, edge(width, aspect / diagonal)), (height, edge(height, 1 / diagonal)))
    )
    table = torch.cat((u.to(x.dtype).expand(height, -1, -1), v.to(x.dtype)[:, None].expand(-1, width, -1)), dim=-1)
    return x.add_(table.permute(2, 0, 1))


def edge(count: int, span: float) -> float:
    """The coordinate of the last of `count` cells' centres in [-span, span]."""
    return span * (count - 1) / count


def waves(places: Tensor, dim: int) -> Tensor:
    """Coordinates [n] -> float64 [n, dim]: sines, then cosines."""
    omega = OMEGA ** -(torch.arange(dim // 2, dtype=torch.float64, device=places.device) / (dim / 2))
    angles = places[:, None] * omega
    return torch.cat((angles.sin(), angles.cos()), dim=1)
