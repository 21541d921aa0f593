"""Mixed precision: products in bfloat16, what is summed and the cameras in float32.

The trunk runs under autocast: float32 tokens go from block to block, products and attention are bfloat16. What else is
bfloat16 is the family's to say (`Model.mix`).
"""

import torch

from quantvggt.kernels import ops, registry  # noqa: F401 - the ops register themselves

PRODUCTS = torch.bfloat16


def is_quick(device: torch.device) -> bool:
    """Does `device` multiply bfloat16 faster than float32?

    A CPU has to in attention, by a native path, and in all other products, by oneDNN: PyTorch's own loops are no match.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return registry.select("attention", device).name != "reference" and _products_are_quick()


def _products_are_quick() -> bool:
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
