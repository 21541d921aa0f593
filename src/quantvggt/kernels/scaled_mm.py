"""`float8_linear` by PyTorch's own product for GPUs with units for fp8, scales per row of both factors in its epilogue.

No GPU has run this yet, and releases of PyTorch differ in the chips that they have such a product for: on each, it has
to give the reference's result once before it is chosen.
"""

from functools import lru_cache

import torch
from torch import Tensor

from quantvggt.core.float8 import quantize_float8
from quantvggt.kernels import reference, registry
from quantvggt.kernels.contract import Backend, Float8Linear

OLDEST = (8, 9)  # compute capability with units for fp8: Ada
MULTIPLE = 16  # of channels and outputs, which are read 16 bytes at a time
TOLERANCE = 0.004  # of the result's norm: bfloat16 costs 0.17%


class ScaledMM(Backend):
    name = "scaled_mm"

    def available(self, device: torch.device) -> tuple[bool, str]:
        """The first call for a GPU compares what it gives with the reference."""
        if device.type != "cuda":
            return False, "w8a8-fp8 is for NVIDIA GPUs with fp8 (Ada, Hopper, Blackwell), elsewhere slower than float"
        if not torch.cuda.is_available():
            return False, "PyTorch finds no GPU here"
        return _usable(torch.cuda.current_device() if device.index is None else device.index)

    def accepts(self, step: Float8Linear) -> str | None:
        if step.out_dtype is not torch.bfloat16:
            return f"its output is bfloat16 only, not {str(step.out_dtype).removeprefix('torch.')}"
        n, k = step.weight.shape
        if k % MULTIPLE or n % MULTIPLE:
            return f"multiples of {MULTIPLE} channels and outputs only, not {k} and {n}"
        return None if step.q.numel() and n else "there are no rows or no outputs"

    def run(self, step: Float8Linear) -> Tensor:
        y = torch._scaled_mm(
            step.q.view(-1, step.q.shape[-1]),
            step.weight.t(),  # the second factor's columns are contiguous
            scale_a=step.row_scale[:, None],
            scale_b=step.weight_scale[None],
            bias=None if step.bias is None else step.bias.to(step.out_dtype),
            out_dtype=step.out_dtype,
            use_fast_accum=False,  # Hopper's sums would have 14 bits
        )
        return y.view(*step.q.shape[:-1], len(step.weight))


def agrees(backend: ScaledMM, device: torch.device) -> bool:
    """Is its result the reference's but for bfloat16's rounding, for few rows and many, with a bias and without?"""
    generator = torch.Generator().manual_seed(0)
    weight, scale = quantize_float8(torch.randn(144, 272, generator=generator, device="cpu").to(device))
    bias = torch.linspace(-1, 1, 144, device=device)
    for rows in (5, 203):
        # Rows, and outputs, of different sizes: a scale in a wrong place would be seen.
        x = torch.randn(rows, 272, generator=generator, device="cpu") * torch.logspace(-2, 2, rows)[:, None]
        q, row_scale = quantize_float8(x.to(device))
        for beside in (None, bias):
            step = Float8Linear(q, row_scale, weight, scale * (1 + bias[:, None].abs()), beside, torch.bfloat16)
            exact = reference.float8_linear(step).float()
            off = (backend.run(step).float() - exact).norm(dim=1) / exact.norm(dim=1)
            if not bool((off < TOLERANCE).all()):
                return False
    return True


@lru_cache
def _usable(index: int) -> tuple[bool, str]:
    if torch.version.hip:
        return False, "NVIDIA GPUs only, this PyTorch is for AMD's"
    capability = torch.cuda.get_device_capability(index)
    words = "compute capability {}.{}".format(*capability)
    if capability < OLDEST:
        return False, f"{words}: needs {OLDEST[0]}.{OLDEST[1]}"
    try:
        with torch.no_grad(), torch.autocast("cuda", enabled=False):
            right = agrees(ScaledMM(), torch.device("cuda", index))
    except Exception as error:  # whatever this PyTorch says, most likely that it has no such product for this chip
        return False, f"PyTorch's product fails here ({type(error).__name__}: {error})".split("\n")[0]
    return right, words if right else "its results differ from the reference's on this GPU (please report that)"


def register() -> None:
    """Put it ahead of what is there."""
    registry.register(Float8Linear.OP, ScaledMM())
