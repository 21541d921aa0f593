"""Pi3X's metric scale: one token asks all frames how large the world is."""

import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.kernels.reference import rotary
from quantvggt.models.pi3.heads import EPS
from quantvggt.nn.block import Mlp
from quantvggt.nn.rope import RopeTables


class CrossAttention(nn.Module):
    """Queries [B, Q, C] at no place ask tokens [B, N, C] at theirs."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, tokens: Tensor, rope: RopeTables) -> Tensor:
        q, k, v = (
            layer(each).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer, each in ((self.q_proj, x), (self.k_proj, tokens), (self.v_proj, tokens))
        )
        y = F.scaled_dot_product_attention(q, rotary(k, *rope).to(v.dtype), v)
        return self.proj(y.transpose(1, 2).flatten(2))


class CrossBlock(nn.Module):
    """x + attention to the tokens, then x + MLP; the keys' names count as published, where 1 was left out."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.norm2 = nn.LayerNorm(dim, eps=EPS)
        self.norm_y = nn.LayerNorm(dim, eps=EPS)
        self.cross_attn = CrossAttention(dim, num_heads)
        self.norm3 = nn.LayerNorm(dim, eps=EPS)
        self.mlp = Mlp(dim, 4 * dim)

    def forward(self, x: Tensor, tokens: Tensor, rope: RopeTables) -> Tensor:
        x = x + self.cross_attn(self.norm2(x), self.norm_y(tokens), rope)
        return self.mlp(x, self.norm3, None, x)


class MetricDecoder(nn.Module):
    """A token [1, 1, 2C] and all frames' tokens [B, S P, 2C] -> [B, 1, dim]."""

    def __init__(self, in_dim: int, dim: int, depth: int, num_heads: int) -> None:
        super().__init__()
        self.projects_x = nn.Linear(in_dim, dim)
        self.projects_y = nn.Linear(in_dim, dim)
        self.blocks = nn.ModuleList(CrossBlock(dim, num_heads) for _ in range(depth))
        self.linear_out = nn.Linear(dim, dim)

    def forward(self, token: Tensor, tokens: Tensor, rope: RopeTables) -> Tensor:
        x, tokens = self.projects_x(token).expand(len(tokens), -1, -1), self.projects_y(tokens)
        for block in self.blocks:
            x = block(x, tokens, rope)
        return self.linear_out(x)
