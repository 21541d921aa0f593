"""How much memory and time a reconstruction will take, before anything is run."""

from dataclasses import dataclass

import torch

from quantvggt.core.errors import InputError
from quantvggt.core.memory import available_bytes, gpu_available_bytes, resident_bytes
from quantvggt.models import Model
from quantvggt.reconstruction.long.loops import KEYS_PER_CHUNK
from quantvggt.reconstruction.long.run import SMALLEST, Chunking, overlap_for
from quantvggt.reconstruction.long.windows import how_many

BYTES_PER_PIXEL = 110
"""Of each frame beside the model: its picture, what the heads say of it, and the same as a Scene's arrays."""
KEPT_FREE = 0.1  # of what there is: an estimate isn't exact
SCRATCH = 30_000_000  # bytes that libraries take when they first run
MOST_PIECES = 300_000_000
"""Bytes that C's allocator was seen to hold at most beyond what a model needs: freed pieces of up to 32 MB stay in case
they are wanted again. Of less than twice that need it was half at most."""


@dataclass(frozen=True)
class Estimate:
    """bytes: the most that will be held above what the process holds now, weights included; seconds: of the model."""

    bytes: int
    seconds: float

    def __str__(self) -> str:
        minutes = self.seconds / 60
        spent = f"{minutes:.0f} min" if minutes >= 10 else f"{minutes:.1f} min"
        spent = spent if minutes >= 1 else f"{max(1, round(self.seconds))} s"
        return f"about {self.bytes / 1e9:.1f} GB and {spent}"


def estimate(
    outline: Model, count: int, size: tuple[int, int], chunking: Chunking | None, rate: float, reading: int = 0
) -> Estimate | None:
    """Of `count` frames of that height and width, in one go or in chunks; None if the model's family can't tell.

    outline: the model, its numbers need not be there; rate: operations a second, see `rate_of`; reading: bytes that
    reading the frames takes. Chunks around places that the frames come back to aren't counted: nobody knows them yet.
    """
    at_once = count if chunking is None else min(count, chunking.size)
    working, operations = outline.working_bytes(at_once, *size), outline.operations(at_once, *size)
    if working is None or operations is None:
        return None
    weights = sum(value.nbytes for value in outline.state_dict().values())
    if chunking is not None and count > chunking.size:
        runs = how_many(count, chunking.size, chunking.overlap) + chunking.loops
        operations *= runs
        if chunking.loops:
            alone = outline.operations(1, *size)
            assert alone is not None
            operations += (runs - 1) * KEYS_PER_CHUNK * alone
    held = SCRATCH + BYTES_PER_PIXEL * size[0] * size[1] * at_once + min(working // 2, MOST_PIECES)
    return Estimate(weights + working + held + reading, operations / rate)


def largest_chunk(outline: Model, count: int, size: tuple[int, int], memory: int) -> int:
    """How many frames at once `memory` bytes are enough for, at most `count`. Raises InputError if not even a few."""

    def fits(frames: int) -> bool:
        found = estimate(outline, frames, size, None, 1.0)
        return found is None or found.bytes <= memory

    least = min(count, SMALLEST)
    if not fits(least):
        needed = estimate(outline, least, size, None, 1.0)
        assert needed is not None
        raise InputError(
            f"{least} frames of {size[1]}x{size[0]} need {needed.bytes / 1e9:.2f} GB beside what the program holds, of "
            f"which {max(0, memory) / 1e9:.2f} GB are left: allow more memory, or use a model with fewer bits"
        )
    low, high = least, count
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def plan(
    outline: Model,
    count: int,
    size: tuple[int, int],
    most_bytes: int | None = None,
    chunk: int | None = None,
    overlap: int | None = None,
    loops: bool = True,
    device: str | torch.device = "cpu",
    taken: int = 0,
) -> Chunking | None:
    """The chunks that `count` frames are best taken in, None: all at once.

    most_bytes: what the process, or its part of a GPU, may hold, weights included; None: what `device`, or the machine
    and its container, have free. taken: bytes that something else will take, such as reading the frames; less than 0 if
    weights are there already. chunk, overlap: as the user wants them. Raises InputError if they don't fit together, or
    memory isn't enough.
    """
    if torch.device(device).type == "cuda":
        free = gpu_available_bytes(device)
        allowed: int | None = (
            free if most_bytes is None else min(free, most_bytes - torch.cuda.memory_allocated(device))
        )
    else:
        allowed = available_bytes() if most_bytes is None else most_bytes - resident_bytes()
    fitting = count
    if allowed is not None:
        fitting = largest_chunk(outline, count, size, int(allowed * (1 - KEPT_FREE)) - taken)
    if chunk is not None and min(chunk, count) > fitting:
        raise InputError(f"--chunk {chunk}: memory is enough for {fitting} frames at once; give that or less")
    if chunk is None and fitting >= count:
        return None
    frames = min(chunk or fitting, count)
    return Chunking(frames, overlap_for(frames) if overlap is None else overlap, loops) if frames < count else None
