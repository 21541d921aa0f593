"""Kernels for NVIDIA GPUs in Triton, which comes with PyTorch for CUDA; nothing here needs it before a kernel runs."""

from quantvggt.kernels import registry
from quantvggt.kernels.triton.backend import TritonAttention, TritonLinear, TritonRotate


def register() -> None:
    """Put them, named "triton" in the registry, ahead of what is there."""
    for backend in (TritonRotate(), TritonLinear(), TritonAttention()):
        registry.register(backend.OP, backend)
