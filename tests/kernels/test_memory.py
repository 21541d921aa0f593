"""Out of memory in native code is a MemoryError, in processes of their own whose memory is limited."""

import platform
import subprocess
import sys

import pytest

from kernel_paths import require
from quantvggt.kernels.cpu import build, structs
from quantvggt.kernels.cpu.paths import LinearPath

pytestmark = pytest.mark.skipif(platform.system() != "Linux", reason="memory is measured and limited the Linux way")

LIMIT = """
import resource

def limit(more):
    pages = int(open("/proc/self/statm").read().split()[0])
    most = resource.RLIM_INFINITY if more is None else pages * resource.getpagesize() + more
    resource.setrlimit(resource.RLIMIT_AS, (most, resource.RLIM_INFINITY))
"""
OPS = """
import torch
from quantvggt.kernels import ops

torch.set_num_threads({threads})
ops.rotate_quantize(torch.ones(17, 8), None, None, None, 8)
{setup}
limit({more})
try:
    {call}
except MemoryError as error:
    print(error)
limit(None)
result = {call}
print("then it works")
"""


def _run(code: str) -> list[str]:
    done = subprocess.run([sys.executable, "-c", LIMIT + code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    ("op", "setup", "more", "call"),
    [
        # Two tasks; a thread's scratch holds three rows of 4 MB. The result has 17 MB.
        (
            "rotate_quantize",
            "x = torch.ones(17, 1 << 20, dtype=torch.bfloat16)",
            23 << 20,
            "ops.rotate_quantize(x, None, None, None, 8)",
        ),
        # A panel of 8 columns and 4 rows of as many floats as there may be: 6 MB.
        (
            "int_linear",
            "q = torch.ones(16, (1 << 17) - 1, dtype=torch.int8); scale = torch.ones(16)",
            2 << 20,
            "ops.int_linear(q, scale, q, scale, None, torch.float32)",
        ),
    ],
)
def test_no_memory_for_scratch(
    op: str, setup: str, more: int, call: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(LinearPath("portable"))
    monkeypatch.setenv("QUANTVGGT_KERNELS", "cpu-portable")
    lines = _run(OPS.format(setup=setup, more=more, call=call, threads=threads))
    assert lines == [f"{op}: no memory for the scratch of its threads", "then it works"]


# Without torch there is no pool whose threads the library could use, and it starts its own.
THREADS = """
import ctypes, importlib.util

spec = importlib.util.spec_from_file_location("structs", {structs!r})
structs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(structs)
native = ctypes.CDLL({library!r})
rows, d = 40, 8
x, q, scale = (ctypes.c_float * (rows * d))(*range(rows * d)), (ctypes.c_int8 * (rows * d))(), (ctypes.c_float * rows)()
args = structs.STRUCTS["RotateArgs"](
    **{{name: ctypes.addressof(array) for name, array in (("x", x), ("q", q), ("scale", scale))}},
    rows=rows, d=d, m=1, bits=8, frame_tokens=1, factor=1, threads=3,
)
limit(1 << 20)
print(native.portable_rotate_quantize(ctypes.byref(args)))
limit(None)
print(native.portable_rotate_quantize(ctypes.byref(args)), q[d - 1], q[rows * d - 1])
"""


def test_no_memory_for_threads() -> None:
    require(LinearPath("portable"))
    library, _ = build.library()
    assert library is not None
    file = structs.__file__
    assert _run(THREADS.format(structs=file, library=library.native._name)) == ["1", "0 127 127"]
