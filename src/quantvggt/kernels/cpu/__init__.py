"""Native CPU kernels, compiled on first use: the fastest path this CPU has runs, each can be forced by name."""

from quantvggt.kernels import registry
from quantvggt.kernels.cpu.build import ATTENTION_PATHS, DEQUANTIZING_PATHS, PATHS
from quantvggt.kernels.cpu.paths import AttentionPath, DequantizePath, LinearPath, RotatePath


def register() -> None:
    """Put every path, named "cpu-..." in the registry, ahead of what is there."""
    for path in reversed(PATHS):
        for backend in (RotatePath(path), LinearPath(path)):
            registry.register(backend.OP, backend)
    for path in reversed(DEQUANTIZING_PATHS):
        registry.register(DequantizePath.OP, DequantizePath(path))
    for path in reversed(ATTENTION_PATHS):
        registry.register(AttentionPath.OP, AttentionPath(path))
