"""The transformer pieces that the aggregator, DINOv2 and the camera head share.

Symbols: B batch, N tokens, C channels, h heads, d = C / h.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.kernels import ops, reference
from quantvggt.models.rope import RopeTables

MLP_ROWS_PER_CHUNK = 8192


class LayerScale(nn.Module):
    """Per-channel gain on a residual branch (CaiT, arXiv 2103.17239)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((dim,), 0.01))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gamma


class Mlp(nn.Module):
    """Linear, GELU, Linear. Without gradients it runs in row chunks, so the hidden layer never exists whole."""

    frame_tokens: int | None = None
    """Where it is known, chunks hold whole frames."""

    def __init__(self, dim: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out or dim)

    def forward(self, x: Tensor) -> Tensor:
        rows = x.flatten(0, -2)
        if torch.is_grad_enabled() or len(rows) <= MLP_ROWS_PER_CHUNK:
            return self.fc2(F.gelu(self.fc1(x)))
        tokens = self.frame_tokens or 1
        step = max(1, MLP_ROWS_PER_CHUNK // tokens) * tokens
        parts = [self.fc2(F.gelu(self.fc1(part))) for part in rows.split(step)]
        return torch.cat(parts).view(*x.shape[:-1], -1)


class Attention(nn.Module):
    """Multi-head self-attention with optional query/key LayerNorm and 2D rotary embedding."""

    def __init__(self, dim: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, rope: RopeTables | None = None) -> Tensor:
        qkv = self.qkv(x)
        q_weight, q_bias, k_weight, k_bias, eps = None, None, None, None, 0.0
        if isinstance(self.q_norm, nn.LayerNorm) and isinstance(self.k_norm, nn.LayerNorm):
            q_weight, q_bias = self.q_norm.weight, self.q_norm.bias
            k_weight, k_bias, eps = self.k_norm.weight, self.k_norm.bias, self.q_norm.eps
        cosine, sine = rope or (None, None)
        # The kernel has no gradient, and bfloat16 products: the reference is for training and for full precision.
        fast = qkv.dtype == torch.bfloat16 and not torch.is_grad_enabled()
        attend = ops.attention if fast else reference.attention
        return self.proj(attend(qkv, self.num_heads, q_weight, q_bias, k_weight, k_bias, eps, cosine, sine))


class Block(nn.Module):
    """Pre-norm transformer block: x [B, N, C] -> [B, N, C]."""

    def __init__(self, dim: int, num_heads: int, *, qk_norm: bool = False, eps: float = 1e-5) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads, qk_norm)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, 4 * dim)
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor, rope: RopeTables | None = None) -> Tensor:
        x = x + self.ls1(self.attn(self.norm1(x), rope))
        return x + self.ls2(self.mlp(self.norm2(x)))


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens: [B, 3, H, W] -> [B, H/p * W/p, C], row by row."""

    def __init__(self, patch_size: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)
