"""These checks run where TRITON_INTERPRET=1 was set before Triton was imported: see test_interpreter.py."""

import pytest
import torch

from quantvggt.kernels import registry
from quantvggt.kernels.triton.backend import interpreted


@pytest.fixture(autouse=True)
def _triton_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else: what it refuses is an error here, where the registry would hand it to the reference."""
    assert interpreted()
    monkeypatch.setattr(registry, "_forced", "triton")
    ran = registry.choose

    def choose(step):
        backend = ran(step)
        assert backend.name == "triton", backend.accepts(step)
        return backend

    monkeypatch.setattr(registry, "choose", choose)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)
