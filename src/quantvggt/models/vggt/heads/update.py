"""The track head's transformer: attention over time for each point, and across points through virtual tracks."""

import torch
from torch import Tensor, nn

from quantvggt.nn.block import Mlp

NUM_HEADS = 8
NUM_BLOCKS = 6
NUM_VIRTUAL = 64


class TrackAttention(nn.Module):
    """Attention and MLP whose residuals start from the *normalised* input, as published.

    x [b, n, C] attends to context [b, m, C], or to itself. Parameter names are those of nn.MultiheadAttention.
    """

    def __init__(self, dim: int, cross: bool) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, 4 * dim)
        attention = nn.MultiheadAttention(dim, NUM_HEADS, batch_first=True)
        if cross:
            self.norm_context = nn.LayerNorm(dim)
            self.cross_attn = attention
        else:
            self.attn = attention

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        x = self.norm1(x)
        if context is None:
            x = x + self.attn(x, x, x, need_weights=False)[0]
        else:
            context = self.norm_context(context)
            x = x + self.cross_attn(x, context, context, need_weights=False)[0]
        return x + self.mlp(self.norm2(x))


class UpdateFormer(nn.Module):
    """[B, S, N, in_dim] -> [B, S, N, out_dim]."""

    def __init__(self, in_dim: int, dim: int, out_dim: int) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(in_dim)
        self.input_transform = nn.Linear(in_dim, dim)
        self.output_norm = nn.LayerNorm(dim)
        self.flow_head = nn.Linear(dim, out_dim)
        # The misspelling is the published key.
        self.virual_tracks = nn.Parameter(torch.randn(1, NUM_VIRTUAL, 1, dim))
        self.time_blocks = nn.ModuleList(TrackAttention(dim, cross=False) for _ in range(NUM_BLOCKS))
        self.space_virtual_blocks = nn.ModuleList(TrackAttention(dim, cross=False) for _ in range(NUM_BLOCKS))
        self.space_point2virtual_blocks = nn.ModuleList(TrackAttention(dim, cross=True) for _ in range(NUM_BLOCKS))
        self.space_virtual2point_blocks = nn.ModuleList(TrackAttention(dim, cross=True) for _ in range(NUM_BLOCKS))

    def forward(self, x: Tensor) -> Tensor:
        batch, frames, points, _ = x.shape
        start = self.input_transform(self.input_norm(x))
        virtual = self.virual_tracks.transpose(1, 2).expand(batch, frames, -1, -1)
        x = torch.cat((start, virtual), dim=2)  # [B, S, N + 64, C]
        blocks = zip(
            self.time_blocks,
            self.space_virtual_blocks,
            self.space_point2virtual_blocks,
            self.space_virtual2point_blocks,
            strict=True,
        )
        for over_time, among_virtual, from_virtual, to_virtual in blocks:
            x = over_time(x.transpose(1, 2).flatten(0, 1)).unflatten(0, (batch, -1)).transpose(1, 2)
            real, virtual = x.flatten(0, 1).split((points, NUM_VIRTUAL), dim=1)
            virtual = among_virtual(to_virtual(virtual, real))
            real = from_virtual(real, virtual)
            x = torch.cat((real, virtual), dim=1).unflatten(0, (batch, frames))
        return self.flow_head(self.output_norm(x[:, :, :points] + start))
