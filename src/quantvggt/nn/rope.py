"""2D rotary position embedding (RoPE, arXiv 2104.09864; split by axis as in VGGT)."""

from typing import NamedTuple

import torch
from torch import Tensor

BASE = 100.0


class RopeTables(NamedTuple):
    """cos, sin: float32 [P, d] for the P tokens of one frame; the first half of d turns with y, the second with x."""

    cos: Tensor
    sin: Tensor


def rope_tables(rows: int, columns: int, special: int, dim: int, device: torch.device) -> RopeTables:
    """Tables for `special` tokens at position (0, 0) followed by rows * columns patches at (y + 1, x + 1)."""
    y, x = torch.meshgrid(
        torch.arange(1, rows + 1, device=device), torch.arange(1, columns + 1, device=device), indexing="ij"
    )
    patches = torch.stack((y.flatten(), x.flatten()), dim=-1)
    return tables_at(torch.cat((patches.new_zeros(special, 2), patches)).float(), dim)


def tables_at(positions: Tensor, dim: int) -> RopeTables:
    """Tables for tokens at these positions, float32 [P, 2]: y, then x."""
    quarter = dim // 4
    frequencies = BASE ** -(torch.arange(quarter, device=positions.device, dtype=torch.float32) / quarter)
    angles = positions[:, :, None] * frequencies  # [P, 2, d/4]
    angles = angles[:, :, None].expand(-1, -1, 2, -1).flatten(1)
    return RopeTables(angles.cos(), angles.sin())
