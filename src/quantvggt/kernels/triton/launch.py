"""One call of a Triton kernel as a value: what runs it is what the tests compile for chips that are not there."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Launch:
    """kernel: a `triton.jit` function, specialised on nothing that changes with the number of frames. args: its
    arguments at run time by name, absent tensors None, which compiles to code without them; constants: those at compile
    time."""

    kernel: Any
    grid: tuple[int, ...]
    args: Mapping[str, Any]
    constants: Mapping[str, Any]
    warps: int
    stages: int = 1

    @property
    def options(self) -> dict[str, Any]:
        """Of the compiler. Each product is rounded before it is added, as in the reference."""
        return {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": False}

    def run(self) -> None:
        """On the current device, see `on`."""
        self.kernel[self.grid](**self.args, **self.constants, **self.options)


@contextmanager
def on(device: torch.device) -> Iterator[None]:
    """Triton launches on the current GPU, wherever the tensors are."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        yield
