"""The ARM paths on a machine that has none: cross-compiled, and each call run by qemu in a process of its own."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from torch import Tensor

from quantvggt.kernels.cpu import build, paths

COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
PATHS = (*build.ARM_FLAGS, "portable")
ATTENTION_PATHS = tuple(build.ARM_ATTENTION_FLAGS)


_given: dict[int, Tensor] = {}
"""Address -> tensor of what the call that is being made is given."""


def require_tools() -> None:
    """Skips where the cross compiler or qemu is missing."""
    for name in (COMPILER, EMULATOR):
        if shutil.which(name) is None:
            pytest.skip(f"no {name} (Debian: g++-aarch64-linux-gnu, qemu-user)")


def compile_program(folder: Path) -> Path:
    """kernel_on_arm.cpp with every path."""
    require_tools()
    objects = []
    names = ("host", *PATHS, *ATTENTION_PATHS)
    for source in (Path(__file__).with_suffix(".cpp"), *(build.SOURCES / f"{name}.cpp" for name in names)):
        objects.append(folder / f"{source.stem}.o")
        extra = (build.ARM_FLAGS | build.ARM_ATTENTION_FLAGS).get(source.stem, [])
        flags = [*build.FLAGS, *extra, f"-I{build.SOURCES}"]
        subprocess.run([COMPILER, *flags, "-c", str(source), "-o", str(objects[-1])], check=True)
    program = folder / "arm"
    subprocess.run([COMPILER, "-static", "-pthread", *map(str, objects), "-o", str(program)], check=True)
    return program


def backend(kind: type[paths.CpuPath], path: str, program: Path, monkeypatch: pytest.MonkeyPatch) -> paths.CpuPath:
    """`kind` on the ARM path `path`."""

    class OnArm(kind):  # type: ignore[misc, valid-type]
        def available(self, device: torch.device) -> tuple[bool, str]:
            return device.type == "cpu", "under qemu"

        def _call(self, *fields: int | float) -> None:
            _run(program, f"{self.path}_{self.OP}", self.STRUCT.from_buffer_copy(self._pack(*fields)))
            _given.clear()

    monkeypatch.setattr(paths, "_addresses", _addresses)
    return OnArm(path)


def _addresses(*tensors: Tensor | None) -> list[int]:
    _given.update({tensor.data_ptr(): tensor for tensor in tensors if tensor is not None})
    return [0 if tensor is None else tensor.data_ptr() for tensor in tensors]


def _run(program: Path, function: str, args: ctypes.Structure) -> None:
    pointers, data, places = list[int](), bytearray(), dict[int, int]()
    for name, kind in args._fields_:  # type: ignore[misc]
        value = getattr(args, name)
        if kind is not ctypes.c_void_p:
            continue
        pointers.append(getattr(type(args), name).offset)
        if value:
            data += bytes(-len(data) % 64)
            places[value] = len(data)
            setattr(args, name, len(data) + 1)
            data += ctypes.string_at(value, _size(_given[value]))
    numbers = [ctypes.sizeof(args), len(data), len(pointers), *pointers]
    content = b"".join(number.to_bytes(8, "little") for number in numbers) + bytes(args) + data
    source, target = program.with_name("input"), program.with_name("output")
    source.write_bytes(content)
    subprocess.run([EMULATOR, str(program), function, str(source), str(target)], check=True)
    result = target.read_bytes()
    for value, place in places.items():
        ctypes.memmove(value, result[place : place + _size(_given[value])], _size(_given[value]))


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
