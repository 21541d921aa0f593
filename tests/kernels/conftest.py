import ctypes
import subprocess

import pytest
import torch

from quantvggt.kernels import registry
from quantvggt.kernels.cpu import build
from quantvggt.kernels.cpu.build import PATHS
from quantvggt.kernels.cpu.paths import CpuPath


@pytest.fixture(params=PATHS)
def cpu_path(request, monkeypatch):
    """The name of each path in turn, forced for both ops; skipped where this CPU or compiler lacks it."""
    usable, reason = CpuPath(request.param).check(torch.device("cpu"))
    if not usable:
        pytest.skip(reason)
    monkeypatch.setattr(registry, "_forced", f"cpu-{request.param}")
    return request.param


@pytest.fixture(params=[1, 2])
def threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def same_bits():
    def check(got, expected):
        assert got.dtype == expected.dtype
        assert got.shape == expected.shape
        flat = [tensor.contiguous().flatten().view(torch.uint8) for tensor in (got, expected)]
        assert torch.equal(*flat)

    return check


@pytest.fixture(scope="session")
def amx_library(tmp_path_factory):
    """The AMX paths, with their tile instructions in plain C++."""
    if not CpuPath("avx512vnni").check(torch.device("cpu"))[0]:
        pytest.skip("the rest of the paths needs AVX512")
    file = tmp_path_factory.mktemp("amx") / "amx.so"
    bf16 = build.usable("avx512bf16", "attention")[0]
    sources = [str(build.SOURCES / name) for name in ("amx.cpp", "host.cpp", *(["amxbf16.cpp"] if bf16 else []))]
    flags = [*build.FLAGS, *build.AVX512, *(["-mavx512bf16"] if bf16 else []), *build.LINK_FLAGS, "-DEMULATE_AMX"]
    subprocess.run([*build._compiler(), *flags, *sources, "-o", str(file)], check=True)
    return ctypes.CDLL(str(file))
