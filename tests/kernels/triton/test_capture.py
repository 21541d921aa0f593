"""Capturing a CUDA graph, without a GPU: PyTorch's own is played as its sources have it, with what a refused capture
leaves behind."""

from contextlib import contextmanager

import pytest
import torch

from quantvggt.kernels.triton import capture as module
from quantvggt.kernels.triton import tune
from quantvggt.kernels.triton.capture import capture, without_waiting

GPU = torch.device("cuda", 1)


class Played:
    """Two GPUs. `refuses`: the driver, when a capture ends; `cleans`: PyTorch, by itself, after that."""

    def __init__(self, refuses=False, cleans=False):
        self.refuses, self.cleans = refuses, cleans
        self.current, self.streams, self.made = 0, ["default 0", "default 1"], 0
        self.recording, self.held, self.mode = [], [], 0

    @contextmanager
    def device(self, device):
        before, self.current = self.current, device.index
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def stream(self, stream):
        before, self.streams[int(stream[-1])] = self.streams[int(stream[-1])], stream
        try:
            yield
        finally:
            self.streams[int(stream[-1])] = before

    def new_stream(self, device):
        self.made += 1
        return f"captures {device.index}"

    @contextmanager
    def graph(self, graph, pool, stream, capture_error_mode):
        assert capture_error_mode == "thread_local", "what other threads do spoils nothing"
        assert int(stream[-1]) == self.current, "a stream of the GPU that is captured"
        self.streams[self.current] = stream
        self.recording.append(pool)
        self.held.append(pool)
        graph.pool = pool
        try:
            yield
        finally:
            if self.refuses and not self.cleans:
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
            self.end(self.current, pool)
            if self.refuses:
                self.release(self.current, pool)
                raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
            graph.ended = True
            self.streams[self.current] = f"default {self.current}"

    def end(self, index, pool):
        if pool not in self.recording:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.recording.remove(pool)

    def release(self, index, pool):
        self.held.remove(pool)  # a second time it would be an internal error


class Graph:
    ended = False

    def __init__(self, gpus):
        self.gpus = gpus

    def reset(self):
        if self.ended:
            self.gpus.release(0, self.pool)
            self.ended = False


@pytest.fixture
def play(monkeypatch):
    def start(**how):
        gpus = Played(**how)
        module._stream.cache_clear()
        for name, value in {
            "device": gpus.device, "stream": gpus.stream, "Stream": gpus.new_stream, "graph": gpus.graph,
            "current_stream": lambda device: gpus.streams[device.index], "current_device": lambda: gpus.current,
            "graph_pool_handle": lambda: (0, len(gpus.held) + 1),
            "get_sync_debug_mode": lambda: gpus.mode,
            "set_sync_debug_mode": lambda mode: setattr(gpus, "mode", mode),
        }.items():  # fmt: skip
            monkeypatch.setattr(torch.cuda, name, value)
        monkeypatch.setattr(torch._C, "_cuda_endAllocateToPool", gpus.end, raising=False)
        monkeypatch.setattr(torch._C, "_cuda_releasePool", gpus.release, raising=False)
        return gpus

    yield start
    module._stream.cache_clear()


def test_a_graph_is_captured_on_a_stream_of_its_gpu(play):
    gpus = play()
    for _ in range(2):
        with capture(Graph(gpus), GPU):
            assert gpus.streams == ["default 0", "captures 1"]
            assert gpus.current == 1
        with capture(Graph(gpus), torch.device("cuda")):
            assert gpus.streams == ["captures 0", "default 1"]
    assert (gpus.streams, gpus.recording, len(gpus.held)) == (["default 0", "default 1"], [], 4)
    assert gpus.made == 2, "one for all captures of a GPU"


@pytest.mark.parametrize("cleans", [False, True])
@pytest.mark.parametrize("refuses", [False, True])
def test_one_that_fails_leaves_stream_and_allocator_as_they_were(play, refuses, cleans):
    """Whether the driver refuses it, or what is captured raises an error."""
    gpus = play(refuses=refuses, cleans=cleans)
    reason = "previous error during capture" if refuses else "of its own"
    with pytest.raises(RuntimeError, match=reason), capture(Graph(gpus), GPU):
        raise RuntimeError("of its own")
    assert gpus.streams == ["default 0", "default 1"]
    assert (gpus.recording, gpus.held) == ([], [])


def test_waiting_is_an_error_only_inside(play):
    gpus = play()
    gpus.mode = 1

    def wait():
        assert gpus.mode == "error"
        raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"), without_waiting(GPU):
        wait()
    assert gpus.mode == 1
    with without_waiting(torch.device("cpu")):
        assert gpus.mode == 1


def test_what_would_spoil_a_capture_is_found_before_it_begins(play, monkeypatch):
    gpus, calls = play(), []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: calls.append("graph"))

    def wait():
        calls.append(gpus.mode)
        if gpus.mode == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    with pytest.raises(RuntimeError, match="synchronizing"):
        tune.seconds(wait, GPU)
    assert calls == [0, "error"]
