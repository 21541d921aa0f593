"""DINOv2 with registers (arXiv 2304.07193, 2309.16588): images to patch tokens."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.nn.block import Block, PatchEmbed

NUM_REGISTERS = 4

# name -> (embed_dim, depth, num_heads) of the DINOv2 backbones with registers (DINOv2, table 17)
DINO_BACKBONES = {
    "dinov2_vits14_reg": (384, 12, 6),
    "dinov2_vitb14_reg": (768, 12, 12),
    "dinov2_vitl14_reg": (1024, 24, 16),
}


class DinoV2(nn.Module):
    """[B, 3, H, W] (normalised) -> normalised patch tokens [B, H/p * W/p, C]."""

    def __init__(self, name: str, img_size: int, patch_size: int) -> None:
        super().__init__()
        dim, depth, num_heads = DINO_BACKBONES[name]
        self.patch_embed = PatchEmbed(patch_size, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (img_size // patch_size) ** 2, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, NUM_REGISTERS, dim))
        # Only masked pre-training uses this; it is part of every published checkpoint.
        self.mask_token = nn.Parameter(torch.zeros(1, dim))
        self.blocks = nn.ModuleList(Block(dim, num_heads, eps=1e-6) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.patch_size = patch_size

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images)
        for block in self.blocks:
            x = block(x)
        return self.norm(x[:, 1 + NUM_REGISTERS :])

    def embed(self, images: Tensor) -> Tensor:
        """What the first block gets: class token, registers, patches, [B, 1 + 4 + H/p * W/p, C]."""
        rows, columns = images.shape[-2] // self.patch_size, images.shape[-1] // self.patch_size
        batch = len(images)
        tokens = torch.cat((self.cls_token.expand(batch, -1, -1), self.patch_embed(images)), dim=1)
        tokens = tokens + self.position_embedding(rows, columns)
        registers = self.register_tokens.expand(batch, -1, -1)
        return torch.cat((tokens[:, :1], registers, tokens[:, 1:]), dim=1)

    def position_embedding(self, rows: int, columns: int) -> Tensor:
        """[1, 1 + rows * columns, C]: the learned square grid, resized bicubically for any other grid."""
        side = math.isqrt(self.pos_embed.shape[1] - 1)
        if (rows, columns) == (side, side):
            return self.pos_embed
        grid = self.pos_embed[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, size=(rows, columns), mode="bicubic", antialias=True)
        patches = grid.flatten(2).transpose(1, 2).to(self.pos_embed.dtype)
        return torch.cat((self.pos_embed[:, :1], patches), dim=1)
