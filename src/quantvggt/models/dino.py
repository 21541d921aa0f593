"""DINOv2 with registers (arXiv 2304.07193, 2309.16588): images to patch tokens."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.nn.block import Block, PatchEmbed

NUM_REGISTERS = 4
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# name -> (embed_dim, depth, num_heads) of the DINOv2 backbones with registers (DINOv2, table 17)
DINO_BACKBONES = {
    "dinov2_vits14_reg": (384, 12, 6),
    "dinov2_vitb14_reg": (768, 12, 12),
    "dinov2_vitl14_reg": (1024, 24, 16),
}


class DinoV2(nn.Module):
    """[B, channels, H, W] (normalised) -> normalised patch tokens [B, H/p * W/p, C].

    sizes: (embed_dim, depth, num_heads). mask_token: has it the one that only masked pre-training uses?
    """

    def __init__(
        self, sizes: tuple[int, int, int], img_size: int, patch_size: int, channels: int = 3, mask_token: bool = True
    ) -> None:
        super().__init__()
        dim, depth, num_heads = sizes
        self.patch_embed = PatchEmbed(patch_size, dim, channels)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (img_size // patch_size) ** 2, dim))
        self.register_tokens = nn.Parameter(torch.zeros(1, NUM_REGISTERS, dim))
        if mask_token:
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
        return resized_table(
            self.pos_embed,
            (rows, columns),
            lambda grid: F.interpolate(grid, size=(rows, columns), mode="bicubic", antialias=True),
        )


def resized_table(table: Tensor, size: tuple[int, int], resize: Callable[[Tensor], Tensor]) -> Tensor:
    """Position embedding [1, 1 + N, C] of a class token and a square grid, the latter taken to `size` = (rows, columns)
    by `resize`, which is given float32 [1, C, side, side]."""
    side = math.isqrt(table.shape[1] - 1)
    if size == (side, side):
        return table
    grid = table[:, 1:].float().unflatten(1, (side, side)).permute(0, 3, 1, 2)
    patches = resize(grid).flatten(2).transpose(1, 2).to(table.dtype)
    return torch.cat((table[:, :1], patches), dim=1)


def normalise(images: Tensor) -> Tensor:
    """RGB in [0, 1] [..., 3, H, W] to what DINOv2 was trained on: ImageNet's mean and deviation."""
    # Filled where the images are: on a GPU numbers from the host would wait for all that runs there.
    mean, std = (
        torch.cat([images.new_full((1, 1, 1), value) for value in values]) for values in (IMAGENET_MEAN, IMAGENET_STD)
    )
    return (images - mean) / std
