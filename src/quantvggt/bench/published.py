"""The published way to run VGGT (github.com/facebookresearch/vggt), as far as it costs time and memory.

Our float model computes the same numbers; here it is made to hold and to do what the published code does: the
outputs of all layers side by side instead of those that heads read, MLPs in one piece, dense heads 8 frames at a time,
maps enlarged before the 1x1 convolution instead of after it, and PyTorch's own attention. "bf16" is autocast over the
whole forward pass: weights stay float32, and autocast keeps a bfloat16 copy beside them. In front of the heads the
published code switches CUDA's autocast off, so on a GPU they run in float32; on a CPU that changes nothing.
"""

import sys
from collections.abc import Collection, Sequence
from types import MethodType
from typing import Any

import torch
from torch import Tensor

from quantvggt.kernels import registry
from quantvggt.models import VGGT, dpt
from quantvggt.nn import block as block_module

FRAMES_PER_CHUNK = 8


def run_the_published_way(model: VGGT) -> None:
    """Change `model`, and what this process's other models share with it, for good: for a process of its own."""
    registry.force("reference")
    block_module.MLP_ROWS_PER_CHUNK = block_module.MLP_BYTES_PER_CHUNK = sys.maxsize
    dpt.PIXELS_PER_CHUNK = FRAMES_PER_CHUNK * model.config.img_size**2
    trunk = model.aggregator.forward

    def keep_all(images: Tensor, layers: Collection[int]) -> dict[int, Tensor]:
        return trunk(images, range(model.config.depth))

    model.aggregator.forward = keep_all  # type: ignore[method-assign]
    heads = model._run_heads

    def run_heads(*args: Any, **kwargs: Any) -> dict[str, Tensor]:
        with torch.autocast("cuda", enabled=False):
            return heads(*args, **kwargs)

    model._run_heads = run_heads  # type: ignore[method-assign]
    for module in model.modules():
        if isinstance(module, dpt.Fusion):
            module.forward = MethodType(_enlarge_first, module)  # type: ignore[method-assign]


def _enlarge_first(self: dpt.Fusion, x: Tensor, skip: Tensor | None, size: Sequence[int]) -> Tensor:
    if skip is not None:
        x = x + self.resConfUnit1(skip)
    x = self.resConfUnit2(x)
    if tuple(x.shape[2:]) != tuple(size):
        x = torch.nn.functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=True)
    result: Tensor = self.out_conv(x)
    return result
