"""CUDA graphs: capturing one so that a capture that fails costs the process nothing else.

`torch.cuda.graph` alone captures on a stream of the GPU that was first captured on, whichever is current, lets every
thread's calls spoil a capture, and where the driver refuses one leaves its own stream the current one and the allocator
in the capture's pool: then no memory is given back any more, and `torch.cuda.empty_cache` raises an error.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

import torch

from quantvggt.core.memory import gpu_index


@contextmanager
def capture(graph: Any, device: torch.device) -> Iterator[None]:
    """What is launched inside goes into the graph, a `torch.cuda.CUDAGraph`, on that device.

    Raises what the driver has against it; stream and allocator are as they were then.
    """
    device, pool = torch.device("cuda", gpu_index(device)), torch.cuda.graph_pool_handle()
    with torch.cuda.device(device), torch.cuda.stream(torch.cuda.current_stream(device)):
        try:
            with torch.cuda.graph(graph, pool, _stream(device), capture_error_mode="thread_local"):
                yield
        except BaseException:
            graph.reset()
            with suppress(RuntimeError, AttributeError):  # where PyTorch has left the pool by itself
                torch._C._cuda_endAllocateToPool(device.index, pool)
                torch._C._cuda_releasePool(device.index, pool)
            raise


@contextmanager
def without_waiting(device: torch.device) -> Iterator[None]:
    """Inside, what would wait for the GPU, and so spoil a capture, raises a RuntimeError; for the whole process."""
    if device.type != "cuda":
        yield
        return
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode(before)


@cache  # one for all captures of a GPU: cuBLAS keeps a workspace for each stream
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)
