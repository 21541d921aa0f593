"""PyTorch's vector math, called once by one thread before anything is computed with it.

On x86 PyTorch hands cos, exp and their like to oneMKL, which looks for each function's kernel in its first call. If
that call runs on several threads, one of them may run a quick kernel with relative errors of 1e-4, in this call alone:
seen with oneMKL 2024.2, which PyTorch's wheels contain (pytorch issue 188792). The first cosines of a process are the
model's rotary tables, and so the same photos gave different cameras from one run to the next.
"""

from functools import cache

import torch

# Those of ATen/cpu/vml.h that PyTorch takes from oneMKL.
FUNCTIONS = (
    *(torch.acos, torch.asin, torch.atan, torch.cos, torch.erf, torch.erfc, torch.erfinv, torch.exp, torch.log),
    *(torch.log10, torch.log2, torch.sin, torch.sqrt, torch.tan, torch.tanh, torch.trunc),
)


@cache
def warm_up() -> None:
    """Call each of `FUNCTIONS` on one number in either precision, on the CPU whatever the default device.

    Only the first call of a process does.
    """
    for dtype in (torch.float32, torch.float64):
        number = torch.ones(1, dtype=dtype, device="cpu")
        for function in FUNCTIONS:
            function(number)
