"""Mixed precision: products in bfloat16, what is summed and the cameras in float32.

The trunk runs under autocast as the published code's does: float32 tokens go from block to block, products and
attention are bfloat16. The dense heads are bfloat16 altogether, the camera head and the tracker float32: they are
small, and poses in bfloat16 cost more than all the rest (docs/results.md).
"""

import torch
from torch import nn

from quantvggt.kernels import ops, registry  # noqa: F401 - the ops register themselves
from quantvggt.models.vggt.heads.dpt import DPTHead
from quantvggt.models.vggt.model import VGGT

PRODUCTS = torch.bfloat16


def bfloat16_parameters(model: VGGT) -> set[str]:
    """Names of the parameters that a mixed model holds in bfloat16; it holds the others in float32."""
    heads = (name for name, module in model.named_modules() if isinstance(module, DPTHead))
    products = (
        f"aggregator.{name}"
        for name, module in model.aggregator.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d)
    )
    return {
        f"{part}.{name}" for part in (*heads, *products) for name, _ in model.get_submodule(part).named_parameters()
    }


def is_quick(device: torch.device) -> bool:
    """Does `device` multiply bfloat16 faster than float32?"""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return registry.select("attention", device).name != "reference"
