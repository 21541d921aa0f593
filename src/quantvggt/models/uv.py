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
    u = _embed(width, aspect / diagonal, channels // 2, x.device).to(x.dtype)
    v = _embed(height, 1 / diagonal, channels // 2, x.device).to(x.dtype)
    table = torch.cat((u.expand(height, -1, -1), v[:, None].expand(-1, width, -1)), dim=-1)
    return x.add_(table.permute(2, 0, 1))


def _embed(count: int, span: float, dim: int, device: torch.device) -> Tensor:
    """[count, dim]: sines then cosines of the cell centres' coordinates in [-span, span]."""
    edge = span * (count - 1) / count
    places = torch.linspace(-edge, edge, count, dtype=torch.float64, device=device)
    omega = OMEGA ** -(torch.arange(dim // 2, dtype=torch.float64, device=device) / (dim / 2))
    angles = places[:, None] * omega
    return (torch.cat((angles.sin(), angles.cos()), dim=1) * GAIN).float()
