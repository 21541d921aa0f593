"""What is left of a GPU's memory, on one that isn't there."""

import pytest
import torch

from quantvggt.core import memory
from quantvggt.core.memory import cap_gpu, gpu_available_bytes, process_peak_bytes

GIB = 2**30


@pytest.fixture
def gpu(monkeypatch):
    """24 GiB, 20 of them free for anybody; of this process' 3 GiB one is unused. Gives what it was capped to."""
    fractions = []
    monkeypatch.setattr(memory, "_caps", {})
    for name, value in {
        "mem_get_info": (20 * GIB, 24 * GIB), "memory_reserved": 3 * GIB, "memory_allocated": 2 * GIB,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)

    def cap(share, device):
        if torch.cuda.memory._get_device_index(device) is not None:  # as PyTorch's own: an error for one without
            fractions.append(share)

    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", cap)
    return fractions


def test_what_is_free_and_what_the_allocator_holds_unused_can_be_taken(gpu):
    assert gpu_available_bytes("cuda") == 21 * GIB


def test_a_cap_counts_what_is_held_already(gpu):
    cap_gpu("cuda:0", 8 * GIB)
    assert gpu == [8 / 24]
    assert gpu_available_bytes("cuda") == 6 * GIB
    assert gpu_available_bytes(torch.device("cuda", 1)) == 21 * GIB


def test_a_cap_above_all_there_is_limits_nothing(gpu):
    cap_gpu("cuda", 100 * GIB)
    assert gpu == [1.0]
    assert gpu_available_bytes("cuda") == 21 * GIB


def test_the_peak_is_that_of_the_gpu_that_works(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", {"cuda:1": 5, "cuda": 3}.__getitem__)
    assert process_peak_bytes("cuda:1", 0) == 5
    assert process_peak_bytes("cuda", 0) == 3
