"""Kernels compiled for GPUs that are not there: Triton and its ptxas need none."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from quantvggt.kernels.triton.launch import Launch

TYPES = {
    torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16", torch.int8: "i8", torch.int32: "i32",
}  # fmt: skip
CUOBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
ALIGNED = 16  # bytes, or elements of an integer: what Triton looks for in arguments at run time


@dataclass(frozen=True)
class Compiled:
    """shared: bytes of a program. spilled: bytes that a thread keeps in memory for want of registers."""

    ptx: str
    shared: int
    registers: int
    spilled: int

    def found(self, pattern: str) -> list[str]:
        """What a regular expression finds in the code."""
        return re.findall(pattern, self.ptx)


def compile_for(launch: Launch, capability: int) -> Compiled:
    """What the launch would compile to on a chip of that compute capability, 90 for 9.0."""
    signature: dict[str, str] = {}
    constants: dict[tuple[int], Any] = {}
    attributes: dict[tuple[int], Any] = {}
    for index, name in enumerate(launch.kernel.arg_names):
        value = launch.args[name] if name in launch.args else launch.constants[name]
        special = isinstance(value, int) and not launch.kernel.params[index].do_not_specialize
        if name in launch.constants or value is None or (special and value == 1):
            signature[name], constants[index,] = "constexpr", value
            continue
        signature[name] = (
            f"*{TYPES[value.dtype]}" if isinstance(value, Tensor) else "fp32" if isinstance(value, float) else "i32"
        )
        if isinstance(value, Tensor) or (special and value % ALIGNED == 0):
            attributes[index,] = [["tt.divisibility", ALIGNED]]
    source = ASTSource(launch.kernel, signature, constants, attributes)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options)
    usage = _usage(made.asm["cubin"])
    spilled = usage["STACK"] + usage["LOCAL"]
    return Compiled(made.asm["ptx"], made.metadata.shared, usage["REG"], spilled)


def _usage(cubin: bytes) -> dict[str, int]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(CUOBJDUMP), "--dump-resource-usage", file.name]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {name: int(value) for name, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", told)}
