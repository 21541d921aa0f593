"""Mixed precision: products in bfloat16, what is summed and the cameras in float32.

The trunk runs under autocast: float32 tokens go from block to block, products and attention are bfloat16. What else is
bfloat16 is the family's to say (`Model.mix`).
"""

import torch

from quantvggt.kernels import ops, registry  # noqa: F401 - the ops register themselves

PRODUCTS = torch.bfloat16


def is_quick(device: torch.device) -> bool:
    """Does `device` multiply bfloat16 faster than float32?"""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return registry.select("attention", device).name != "reference"
