"""The alternating-attention trunk of VGGT (arXiv 2503.11651, section 3.2)."""

from collections.abc import Collection
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from quantvggt.models.dino import DINO_BACKBONES, DinoV2, normalise
from quantvggt.models.vggt.config import VGGTConfig
from quantvggt.nn.block import Block, PatchEmbed
from quantvggt.nn.quant_linear import mark_frames
from quantvggt.nn.rope import rope_tables

NUM_REGISTERS = 4
NUM_SPECIAL = 1 + NUM_REGISTERS  # tokens before the patch tokens of each frame; the other one is the camera's


class Aggregator(nn.Module):
    """images [B, S, 3, H, W] -> {layer: [B, S, P, 2C]} with P = 5 + H/p * W/p.

    An output is the frame block's and the global block's result side by side. Only the layers that are asked
    for are kept: all 24 of VGGT-1B would take 205 MB a frame.
    """

    products: torch.dtype | None = None
    """What products run in if not in the tokens' dtype, see `models.mixed`."""

    def __init__(self, config: VGGTConfig) -> None:
        super().__init__()
        dim = config.embed_dim
        self.patch_size = config.patch_size
        self.head_dim = dim // config.num_heads
        self.patch_embed: nn.Module
        if config.patch_embed == "conv":
            self.patch_embed = PatchEmbed(config.patch_size, dim)
        else:
            self.patch_embed = DinoV2(DINO_BACKBONES[config.patch_embed], config.img_size, config.patch_size)
        # index 0: the tokens of the first frame, whose camera is the world; index 1: those of every other frame
        self.camera_token = nn.Parameter(torch.randn(1, 2, 1, dim) * 1e-6)
        self.register_token = nn.Parameter(torch.randn(1, 2, NUM_REGISTERS, dim) * 1e-6)
        self.frame_blocks = nn.ModuleList(Block(dim, config.num_heads, qk_norm=True) for _ in range(config.depth))
        self.global_blocks = nn.ModuleList(Block(dim, config.num_heads, qk_norm=True) for _ in range(config.depth))

    def forward(self, images: Tensor, layers: Collection[int]) -> dict[int, Tensor]:
        mixed = self.products is not None
        with torch.autocast(images.device.type, self.products) if mixed else nullcontext():
            return self._forward(images, layers)

    def _forward(self, images: Tensor, layers: Collection[int]) -> dict[int, Tensor]:
        batch, frames, _, height, width = images.shape
        rows, columns = height // self.patch_size, width // self.patch_size
        mark_frames(self, NUM_SPECIAL + rows * columns, NUM_SPECIAL, columns)  # DINOv2 has as many special tokens
        x = self.embed(images)
        rope = rope_tables(rows, columns, NUM_SPECIAL, self.head_dim, images.device)
        kept = {}
        for index in range(max(layers) + 1):
            x = self.frame_blocks[index](x.flatten(0, 1), rope)
            frame = x.unflatten(0, (batch, frames))
            x = self.global_blocks[index](frame.flatten(1, 2), rope).unflatten(1, (frames, -1))
            if index in layers:
                # Only the camera head, which reads the last, wants more than the dense heads' precision.
                kind = x.dtype if index == len(self.global_blocks) - 1 else self.products or x.dtype
                kept[index] = torch.cat((frame.to(kind), x.to(kind)), dim=-1)
        return kept

    def embed(self, images: Tensor) -> Tensor:
        """[B, S, 3, H, W] -> [B, S, P, C]: camera and register tokens, then the patch tokens."""
        batch, frames = images.shape[:2]
        patches = self.patch_embed(normalise(images).flatten(0, 1)).unflatten(0, (batch, frames))
        special = torch.cat((self.camera_token, self.register_token), dim=2)
        special = torch.cat((special[:, :1], special[:, 1:].expand(-1, frames - 1, -1, -1)), dim=1)
        return torch.cat((special.expand(batch, -1, -1, -1), patches), dim=2)
