"""The one transformer of Depth-Anything-3: a DINOv2 whose later blocks see all frames in turns."""

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.models.da3.config import DA3Config
from quantvggt.models.da3.reference import choose
from quantvggt.models.dino import normalise, resized_table
from quantvggt.nn.block import Block, PatchEmbed
from quantvggt.nn.quant_linear import mark_frames
from quantvggt.nn.rope import RopeTables, rope_tables, tables_at

NUM_SPECIAL = 1  # the class token, in whose place the camera's comes


@dataclass
class Views:
    """What blocks need to know of B clips.

    local, world: rotary tables of blocks that see one frame, and of those that see all. cameras: tokens [B, S, C] of
    given ones. reference: the index of each clip's reference view [B], once its class tokens are known.
    """

    local: RopeTables
    world: RopeTables
    cameras: Tensor | None = None
    reference: Tensor | None = None


class Backbone(nn.Module):
    """images [B, S, 3, H, W] -> {layer: [B, S, P, D]} with P = 1 + H/p * W/p.

    An output is the latest local block's result and the block's own side by side (D = 2C), or of a monocular model the
    block's own alone (D = C). `read_out` makes of it what dense heads read.
    """

    products: torch.dtype | None = None
    """What products run in if not in the tokens' dtype, see `models.mixed`."""
    strategy: str = "saddle_balanced"
    """How the reference view is chosen: one of `reference.STRATEGIES`."""

    def __init__(self, config: DA3Config) -> None:
        super().__init__()
        dim, side = config.embed_dim, config.img_size // config.patch_size
        self.config = config
        self.patch_embed = PatchEmbed(config.patch_size, dim)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + side**2, dim))
        if config.alternates:
            # index 0: the token of the reference view; index 1: that of every other view
            self.camera_token = nn.Parameter(torch.zeros(1, 2, dim))
        self.blocks = nn.ModuleList(
            Block(dim, config.num_heads, qk_norm=index >= config.start, eps=1e-6, swiglu=config.swiglu)
            for index in range(config.depth)
        )
        self.norm = nn.LayerNorm(dim, eps=1e-5)

    def forward(self, images: Tensor, layers: Collection[int], cameras: Tensor | None = None) -> dict[int, Tensor]:
        mixed = self.products is not None
        with torch.autocast(images.device.type, self.products) if mixed else nullcontext():
            return self._forward(images, layers, cameras)

    def _forward(self, images: Tensor, layers: Collection[int], cameras: Tensor | None) -> dict[int, Tensor]:
        x, views = self.embed(images), self.views(images, cameras)
        mark_frames(self, x.shape[2], NUM_SPECIAL, images.shape[-1] // self.config.patch_size)
        local, kept = x, {}
        for index in range(max(layers) + 1):
            x = self.before(index, x, views)
            local = x if index == self.config.start else local
            rows = x.flatten(1, 2) if self.sees_all(index) else x.flatten(0, 1)
            x = self.blocks[index](rows, self.tables(index, views)).view(x.shape)
            if not self.sees_all(index):
                local = x
            if index in layers:
                kept[index] = torch.cat((local, x), dim=-1) if self.config.alternates else x
        return kept

    def embed(self, images: Tensor) -> Tensor:
        """[B, S, 3, H, W], RGB in [0, 1] -> the first block's input [B, S, P, C]."""
        batch, frames, _, height, width = images.shape
        rows, columns = height // self.config.patch_size, width // self.config.patch_size
        patches = self.patch_embed(normalise(images).flatten(0, 1))
        tokens = torch.cat((self.cls_token.expand(len(patches), -1, -1), patches), dim=1)
        return (tokens + self.position_embedding(rows, columns)).unflatten(0, (batch, frames))

    def position_embedding(self, rows: int, columns: int) -> Tensor:
        """[1, 1 + rows * columns, C]: the learned square grid, resized bicubically for any other grid."""

        def resize(grid: Tensor) -> Tensor:
            # Published code names factors, a tenth of a cell too large, instead of the size: places shift by them.
            factors = tuple((count + 0.1) / side for count, side in zip((rows, columns), grid.shape[2:], strict=True))
            return F.interpolate(grid, scale_factor=factors, mode="bicubic")

        return resized_table(self.pos_embed, (rows, columns), resize)

    def views(self, images: Tensor, cameras: Tensor | None = None) -> Views:
        """What is known in front of the first block."""
        rows, columns = (side // self.config.patch_size for side in images.shape[-2:])
        head = self.config.embed_dim // self.config.num_heads
        local = rope_tables(rows, columns, NUM_SPECIAL, head, images.device)
        same = torch.ones(NUM_SPECIAL + rows * columns, 2, device=images.device)
        same[:NUM_SPECIAL] = 0
        return Views(local, tables_at(same, head), cameras)

    def sees_all(self, index: int) -> bool:
        """Does this block's attention see all frames?"""
        return index >= self.config.start and index % 2 == 1

    def tables(self, index: int, views: Views) -> RopeTables | None:
        """The rotary tables of a block; those before `start` have none."""
        if index < self.config.start:
            return None
        return views.world if self.sees_all(index) else views.local

    def before(self, index: int, x: Tensor, views: Views) -> Tensor:
        """What happens to the tokens [B, S, P, C] right before a block.

        Published code moves the reference view to the front and back in the end. But for the camera's token no block
        can tell views apart, so here all stay where they are.
        """
        if not self.config.alternates:
            return x
        if index == self.config.start - 1:
            views.reference = choose(x[:, :, 0], self.strategy)
        if index != self.config.start:
            return x
        return torch.cat((self._camera_tokens(x, views)[:, :, None], x[:, :, 1:]), dim=2)

    def _camera_tokens(self, x: Tensor, views: Views) -> Tensor:
        """[B, S, C]"""
        if views.cameras is not None:
            return views.cameras.to(x)
        chosen = torch.zeros(len(x), dtype=torch.long) if views.reference is None else views.reference
        is_reference = torch.arange(x.shape[1], device=x.device) == chosen.to(x.device)[:, None]
        first, other = self.camera_token.to(x)[0]
        return torch.where(is_reference[..., None], first, other)

    def read_out(self, x: Tensor) -> Tensor:
        """An output [.., P, D] as dense heads read it: patches only, the block's own half normalised."""
        patches = x[..., NUM_SPECIAL:, :]
        if not self.config.alternates:
            return self.norm(patches)
        local, own = patches.chunk(2, dim=-1)
        return torch.cat((local, self.norm(own)), dim=-1)
