"""Tiles of `int_linear` tried out on the GPU that is here, on request. What is found is `tuned`'s to keep."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from quantvggt.core.errors import InputError
from quantvggt.kernels.contract import IntLinear
from quantvggt.kernels.measured import rank as quickest_first
from quantvggt.kernels.triton.capture import capture, without_waiting
from quantvggt.kernels.triton.launch import on
from quantvggt.kernels.triton.tiles import Shape, Tile, candidates, linear_tile
from quantvggt.kernels.triton.tuned import chip

REPEATS = 5
CALLS = 20  # in one graph


@dataclass(frozen=True)
class Tried:
    """tile: the quickest, the known one unless another took less than 95% of its time. left_out: why candidates have no
    time, by their names."""

    shape: Shape
    tile: Tile
    seconds: float
    known: Tile
    known_seconds: float
    left_out: dict[str, str]


def try_out(shape: Shape, device: torch.device) -> Tried:
    """Time the known tile and the candidates that the chip can hold, on random numbers with everything that a product
    can have behind it; each has to give the known one's bits. Takes a few seconds, for every tile compiles once.

    Raises InputError if the Triton kernel can't run there.
    """
    require_runs(device)
    here = replace(chip(device), tuned={})
    step = sample(shape, device)
    known = linear_tile(step, here)
    times, left_out, expected = dict[Tile, float](), dict[str, str](), None
    for tile in dict.fromkeys((known, *candidates(shape, here))):
        try:
            y, times[tile] = _run(step, tile, device)
        except Exception as error:  # whatever the compiler or the GPU has against it
            if tile == known:
                raise
            left_out[str(tile)] = f"{type(error).__name__}: {error}".split("\n")[0]
            continue
        expected = y if expected is None else expected
        if not torch.equal(y, expected):
            left_out[str(tile)] = "other results than the known tile's (please report that)"
            del times[tile]
    by_name = {str(tile): tile for tile in times}
    best = by_name[quickest_first({name: times[tile] for name, tile in by_name.items()})[0]]
    return Tried(shape, best, times[best], known, times[known], left_out)


def require_runs(device: torch.device) -> None:
    """Raises InputError if the Triton kernel can't run there."""
    from quantvggt.kernels.triton.backend import TritonLinear

    can, reason = TritonLinear().available(device)
    if not can:
        raise InputError(f"there are no tiles to try out on {device}: {reason}")


def sample(shape: Shape, device: torch.device) -> IntLinear:
    """A product of this shape, with bias, gain and residual."""
    generator = torch.Generator(device).manual_seed(0)

    def integers(*size: int, dtype: torch.dtype = torch.int8) -> Tensor:
        most = torch.iinfo(dtype).max
        return torch.randint(-most, most, size, dtype=dtype, generator=generator, device=device)

    def floats(*size: int) -> Tensor:
        return torch.rand(size, dtype=torch.float32, generator=generator, device=device)

    rows, k, n, bits, rank = shape
    weight = integers(n, k) if bits == 8 else integers(n, -(-k // 8), dtype=torch.int32)
    branch = (integers(n, rank), floats(n)) if rank else (None, None)
    return IntLinear(
        integers(rows, k + rank), floats(rows, 2 if rank else 1), weight, floats(n), floats(n), torch.float32, False,
        floats(n), floats(rows, n), *branch,
    )  # fmt: skip


def seconds(run: Callable[[], object], device: torch.device, repeats: int = REPEATS) -> float:
    """Of one call, the median of several: on a GPU without the launches, from a CUDA graph of some calls."""
    cuda = device.type == "cuda"

    def wait() -> None:
        if cuda:
            torch.cuda.synchronize(device)

    run()
    with without_waiting(device):  # said by an error that names it, before a capture fails for it
        run()
    wait()
    once = run
    if cuda:
        graph = torch.cuda.CUDAGraph()
        with capture(graph, device):
            for _ in range(CALLS):
                run()
        once = graph.replay
        once()
        wait()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        once()
        wait()
        times.append((time.perf_counter() - start) / (CALLS if cuda else 1))
    return statistics.median(times)


def _run(step: IntLinear, tile: Tile, device: torch.device) -> tuple[Tensor, float]:
    from quantvggt.kernels.triton.linear import plan

    y = step.empty()
    with on(device):
        return y, seconds(plan(step, y, tile).run, device)
