import pytest
import torch

from quantvggt.kernels import registry
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
