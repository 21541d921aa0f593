"""The published way to run VGGT (github.com/facebookresearch/vggt), as far as it costs time and memory.

Our float model computes the same numbers; here it is made to do what the published code does, op by op: the outputs of
all layers side by side instead of those that heads read, MLPs in one piece, PyTorch's own attention behind rotary
tables that each call looks up, dense heads 8 frames at a time whose sums are new tensors, maps enlarged before the 1x1
convolution instead of after it, and places in the image embedded anew for each map, cell by cell. "bf16" is autocast
over the whole forward pass: weights stay float32, and autocast keeps a bfloat16 copy beside them. In front of the heads
the published code switches CUDA's autocast off, so on a GPU they run in float32; on a CPU that changes nothing.
"""

import sys
from collections.abc import Callable, Collection, Sequence
from types import MethodType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantvggt.models import VGGT, dpt, uv
from quantvggt.nn import block as block_module
from quantvggt.nn.fused import LayerScale
from quantvggt.nn.rope import RopeTables

FRAMES_PER_CHUNK = 8


def run_the_published_way(model: VGGT) -> None:
    """Change `model`, and what this process's other models share with it, for good: for a process of its own."""
    block_module.MLP_ROWS_PER_CHUNK = block_module.MLP_BYTES_PER_CHUNK = sys.maxsize
    dpt.PIXELS_PER_CHUNK = FRAMES_PER_CHUNK * model.config.img_size**2
    trunk = model.aggregator.forward

    def keep_all(images: Tensor, layers: Collection[int]) -> dict[int, Tensor]:
        return trunk(images, range(model.config.depth))

    model.aggregator.forward = keep_all  # type: ignore[method-assign]
    model.aggregator.register_forward_pre_hook(lambda *_: None)  # what is watched is never a CUDA graph
    heads = model._run_heads

    def run_heads(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
        with torch.autocast("cuda", enabled=False):
            return heads(*args, **kwargs)

    model._run_heads = run_heads  # type: ignore[method-assign]
    for module in model.modules():
        for kind, name, function in _CHANGED:
            if isinstance(module, kind):
                setattr(module, name, MethodType(function, module))


def _attend(
    self: block_module.Attention,
    x: Tensor,
    rope: RopeTables | None = None,
    norm: nn.LayerNorm | None = None,
    gain: LayerScale | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    qkv: Tensor = self.qkv(x if norm is None else norm(x))
    q, k, v = qkv.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    q, k = self.q_norm(q), self.k_norm(k)
    if rope is not None:
        q, k = _turned(q, rope), _turned(k, rope)
    y: Tensor = self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
    if gain is not None:
        y = gain(y)
    return y if residual is None else residual + y


def _turned(x: Tensor, rope: RopeTables) -> Tensor:
    """[B, h, N, d] by the tables, in their dtype, of each token, one for y and one for x."""
    frames, parts = x.shape[2] // len(rope.cos), []
    for part, *tables in zip(x.chunk(2, -1), rope.cos.chunk(2, -1), rope.sin.chunk(2, -1), strict=True):
        cosine, sine = (table.to(x.dtype).repeat(len(x), frames, 1)[:, None] for table in tables)
        first, second = part.chunk(2, -1)
        parts.append(part * cosine + torch.cat((-second, first), -1) * sine)
    return torch.cat(parts, -1)


def _refine(self: dpt.ResidualUnit, x: Tensor) -> Tensor:
    y: Tensor = self.conv2(F.relu(self.conv1(F.relu(x, inplace=True)), inplace=True))
    return y + x


def _enlarge_first(self: dpt.Fusion, x: Tensor, skip: Tensor | None, size: Sequence[int]) -> Tensor:
    if skip is not None:
        x = x + self.resConfUnit1(skip)
    result: Tensor = self.out_conv(dpt.resize(self.resConfUnit2(x), size))
    return result


def _placed(self: dpt.DPTHead, x: Tensor, height: int, width: int) -> Tensor:
    channels, rows, columns = x.shape[1:]
    diagonal = (height**2 + width**2) ** 0.5
    across, down = (
        torch.linspace(-edge, edge, count, dtype=x.dtype, device=x.device)
        for edge, count in ((uv.edge(columns, width / diagonal), columns), (uv.edge(rows, height / diagonal), rows))
    )
    v, u = torch.meshgrid(down, across, indexing="ij")
    table = torch.cat([uv.waves(places.flatten(), channels // 2).float() for places in (u, v)], dim=-1) * uv.GAIN
    return x + table.view(rows, columns, channels).permute(2, 0, 1)


_CHANGED: tuple[tuple[type[nn.Module], str, Callable[..., Tensor]], ...] = (
    (block_module.Attention, "forward", _attend),
    (dpt.ResidualUnit, "forward", _refine),
    (dpt.Fusion, "forward", _enlarge_first),
    (dpt.DPTHead, "placed", _placed),
)
