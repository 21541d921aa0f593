"""Native CPU kernels, compiled on first use: the fastest path this CPU has runs, each can be forced by name."""

from functools import partial

from quantvggt.kernels import registry
from quantvggt.kernels.cpu import attention
from quantvggt.kernels.cpu.build import ATTENTION_PATHS, PATHS
from quantvggt.kernels.cpu.paths import CpuPath


def register() -> None:
    """Put every path, named "cpu-..." in the registry, ahead of what is there."""
    for name in reversed(PATHS):
        path = CpuPath(name)
        for op, run in (("rotate_quantize", path.rotate_quantize), ("int_linear", path.int_linear)):
            registry.register(op, registry.Backend(f"cpu-{name}", run, path.check))
    for name in reversed(ATTENTION_PATHS):
        run, check = partial(attention.run, name), partial(attention.check, name)
        registry.register("attention", registry.Backend(f"cpu-{name}", run, check))
