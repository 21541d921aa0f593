"""The transformer block that trunks, DINOv2 and heads are built from.

Symbols: B batch, N tokens, C channels, h heads, d = C / h.
"""

import warnings
from abc import ABC, abstractmethod
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.kernels import contract, ops, reference, registry
from quantvggt.nn.fused import LayerScale, linear_steps
from quantvggt.nn.rope import RopeTables
from quantvggt.nn.thinned import seen_by_others

MLP_ROWS_PER_CHUNK = 8192
MLP_BYTES_PER_CHUNK = 5 << 20
"""Of an MLP's input at once on a CPU. Its hidden layer has up to 5.4 times as many, and from 32 MiB on glibc's malloc
takes each tensor from the system and gives it back, so every page of it costs a fault each time."""
LAYERS = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")  # a block's linear layers, in the order in which they run
SWIGLU_LAYERS = ("attn.qkv", "attn.proj", "mlp.w12", "mlp.w3")  # where the MLP is a SwiGlu
AFTER_NORM = ("attn.qkv", "mlp.fc1", "mlp.w12")  # those whose input a LayerNorm gives


class FeedForward(nn.Module, ABC):
    """A hidden layer between two linear ones. Without gradients it runs in row chunks, so the hidden layer never exists
    whole.

    `norm`, `gain` and `residual` are what stands around it in a block, see `linear_steps`.
    """

    frame_tokens: int | None = None
    """Where it is known, chunks hold whole frames."""
    special_tokens: int = 0

    def forward(
        self,
        x: Tensor,
        norm: nn.LayerNorm | None = None,
        gain: LayerScale | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        step = self._rows_per_chunk(x)
        if torch.is_grad_enabled() or x.shape[:-1].numel() <= step:
            return self._chunk(x, norm, gain, residual)
        rows = x.flatten(0, -2)
        parts = rows.split(step)
        residuals = [None] * len(parts) if residual is None else residual.flatten(0, -2).split(step)
        outputs = [self._chunk(part, norm, gain, beside) for part, beside in zip(parts, residuals, strict=True)]
        return torch.cat(outputs).view(*x.shape[:-1], -1)

    def _rows_per_chunk(self, x: Tensor) -> int:
        rows, tokens = MLP_ROWS_PER_CHUNK, self.frame_tokens or 1
        if x.device.type == "cpu":
            rows = min(rows, MLP_BYTES_PER_CHUNK // (x.shape[-1] * x.element_size()))
        return max(1, rows // tokens) * tokens

    @abstractmethod
    def _chunk(
        self, x: Tensor, norm: nn.LayerNorm | None, gain: LayerScale | None, residual: Tensor | None
    ) -> Tensor: ...


class Mlp(FeedForward):
    """Linear, GELU, Linear."""

    def __init__(self, dim: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, out or dim)

    def _chunk(self, x: Tensor, norm: nn.LayerNorm | None, gain: LayerScale | None, residual: Tensor | None) -> Tensor:
        hidden = linear_steps(self.fc1, x, norm, gelu=True)
        return linear_steps(self.fc2, hidden, gain=gain, residual=residual)


class SwiGlu(FeedForward):
    """Linear to two halves, SiLU of the first times the second, Linear (arXiv 2002.05202, as DINOv2 has it)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = self.hidden(dim)
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    @staticmethod
    def hidden(dim: int) -> int:
        """The width of each half: as many parameters as an Mlp, a multiple of 8."""
        return (int(4 * dim * 2 / 3) + 7) // 8 * 8

    def _chunk(self, x: Tensor, norm: nn.LayerNorm | None, gain: LayerScale | None, residual: Tensor | None) -> Tensor:
        gate, value = linear_steps(self.w12, x, norm).chunk(2, dim=-1)
        return linear_steps(self.w3, F.silu(gate) * value, gain=gain, residual=residual)


class Attention(nn.Module):
    """Multi-head self-attention with optional query/key LayerNorm and 2D rotary embedding.

    `norm`, `gain` and `residual` are what stands around it in a block, see `linear_steps`.
    """

    stride: int = 1
    """Above 1, attention over several frames is thinned out, see `nn.thinned`."""
    score_bits: int = 16
    """Of queries and keys, see `kernels.contract.Attention`."""
    frame_tokens: int | None = None
    special_tokens: int = 0
    columns: int | None = None
    """Of a frame's patches. Where nobody said (`mark_frames`), as in calibration, attention is exact, in 16 bits."""

    def __init__(self, dim: int, num_heads: int, qk_norm: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.LayerNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.k_norm = nn.LayerNorm(dim // num_heads) if qk_norm else nn.Identity()
        self.proj = nn.Linear(dim, dim)

    def forward(
        self,
        x: Tensor,
        rope: RopeTables | None = None,
        norm: nn.LayerNorm | None = None,
        gain: LayerScale | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        qkv = linear_steps(self.qkv, x, norm)
        q_weight, q_bias, k_weight, k_bias, eps = None, None, None, None, 0.0
        if isinstance(self.q_norm, nn.LayerNorm) and isinstance(self.k_norm, nn.LayerNorm):
            q_weight, q_bias = self.q_norm.weight, self.q_norm.bias
            k_weight, k_bias, eps = self.k_norm.weight, self.k_norm.bias, self.q_norm.eps
        cosine, sine = rope or (None, None)
        # The kernels have no gradient, and products in 16 bits: the reference is for training and for full precision.
        fast = qkv.dtype in (torch.bfloat16, torch.float16) and not torch.is_grad_enabled()
        bits = 16 if self.columns is None else self.score_bits
        step = qkv, self.num_heads, q_weight, q_bias, k_weight, k_bias, eps, cosine, sine, self._seen(qkv), bits
        if bits == 8:
            _tell_if_slow(qkv.device, qkv.dtype, qkv.shape[2] // (3 * self.num_heads))
        y = ops.attention(*step) if fast else reference.attention(contract.Attention(*step))
        return linear_steps(self.proj, y, gain=gain, residual=residual)

    def _seen(self, qkv: Tensor) -> Tensor | None:
        if self.stride == 1 or self.frame_tokens is None or self.columns is None or self.frame_tokens == qkv.shape[1]:
            return None
        return seen_by_others(self.frame_tokens, self.special_tokens, self.columns, self.stride, qkv.device)


@lru_cache
def _tell_if_slow(device: torch.device, dtype: torch.dtype, head_size: int) -> None:
    """Once: 8-bit queries and keys save time only where a kernel has them."""
    qkv = torch.zeros(1, 1, 3 * head_size, dtype=dtype, device=device)
    step = contract.Attention(qkv, 1, None, None, None, None, 0.0, None, None, score_bits=8)
    if registry.choose(step).name != "reference":
        return
    kind = str(dtype).removeprefix("torch.")
    reason = "they are made for NVIDIA GPUs" if device.type == "cpu" else "quantvggt doctor says why"
    warnings.warn(
        f"attention with 8-bit queries and keys runs in plain PyTorch here ({kind} on {device.type}; {reason}), slower "
        "than with 16 bits",
        stacklevel=2,
    )


class Block(nn.Module):
    """Pre-norm transformer block: x [B, N, C] -> [B, N, C]."""

    def __init__(
        self,
        dim: int,
        num_heads: int,
        *,
        qk_norm: bool = False,
        eps: float = 1e-5,
        layer_scale: bool = True,
        swiglu: bool = False,
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(dim, num_heads, qk_norm)
        self.ls1 = LayerScale(dim) if layer_scale else None
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = SwiGlu(dim) if swiglu else Mlp(dim, 4 * dim)
        self.ls2 = LayerScale(dim) if layer_scale else None

    def forward(self, x: Tensor, rope: RopeTables | None = None) -> Tensor:
        x = self.attn(x, rope, self.norm1, self.ls1, x)
        return self.mlp(x, self.norm2, self.ls2, x)


class PatchEmbed(nn.Module):
    """Non-overlapping patches to tokens: [B, channels, H, W] -> [B, H/p * W/p, C], row by row."""

    def __init__(self, patch_size: int, dim: int, channels: int = 3) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch_size, stride=patch_size)

    def forward(self, images: Tensor) -> Tensor:
        return self.proj(images).flatten(2).transpose(1, 2)
