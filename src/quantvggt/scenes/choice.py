"""Which frames of a film to take, by when they are shown and how sharp they are."""

import math

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.errors import InputError

_WINDOW = 0.5  # seconds: motion blur comes and goes faster
_AT_LEAST = 8  # frames on either side: some films have few in a second


def check_choice(frames: int | None, rate: float | None, every: int | None) -> None:
    """Raise InputError unless at most one of the three is given, and makes sense."""
    if sum(value is not None for value in (frames, rate, every)) > 1:
        raise InputError("give the number of frames, the rate, or every how many, not both")
    if frames is not None and frames < 1:
        raise InputError(f"frames is {frames}; ask for at least 1")
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise InputError(f"rate is {rate}; give a positive number of frames per second")
    if every is not None and every < 1:
        raise InputError(f"every is {every}; give 1 for each frame, 2 for every second one, and so on")


def evenly(seconds: list[float], count: int) -> list[int]:
    """`count` different frames (all, if there are fewer) nearest to even steps of time, from the first to the last."""
    count = min(count, len(seconds))
    nearest = _nearest(seconds, np.linspace(0, seconds[-1], count) if count > 1 else np.zeros(1))
    chosen: list[int] = []
    for place, index in enumerate(nearest):
        first = chosen[-1] + 1 if chosen else 0
        chosen.append(min(max(index, first), len(seconds) - count + place))
    return chosen


def at_rate(seconds: list[float], rate: float) -> list[int]:
    """The frames nearest to 0, 1 / rate, 2 / rate, ... seconds."""
    wanted = np.arange(math.floor(seconds[-1] * rate + 1e-6) + 1) / rate
    return sorted(set(_nearest(seconds, wanted)))


def slots(seconds: list[float], chosen: list[int]) -> list[list[int]]:
    """For each evenly chosen frame those that may stand in for it, itself the first.

    The film is cut into as many slots of time, equally long if the frames are; of a slot the frames count that lie
    within half a second, or eight frames, of the chosen one.
    """
    times, count = np.asarray(seconds), len(chosen)
    at = times[chosen]
    # Even times k T / (N - 1) lie in the slots k T / N to (k + 1) T / N, first and last at the very ends.
    ends = at[:-1] + np.diff(at) * (count - 1 - np.arange(count - 1)) / count
    slot_of = np.searchsorted(ends, times, side="right")
    candidates = []
    for slot, index in enumerate(chosen):
        first, last = np.searchsorted(times, [times[index] - _WINDOW, times[index] + _WINDOW])
        near = range(max(0, min(first, index - _AT_LEAST)), min(len(times), max(last, index + _AT_LEAST + 1)))
        candidates.append([index, *(other for other in near if slot_of[other] == slot and other != index)])
    return candidates


def sharpness(grey: NDArray[np.uint8]) -> float:
    """Variance of the Laplacian of a grey picture [h, w]: the more, the sharper."""
    values = grey.astype(np.float32)
    if min(values.shape) < 3:
        return 0.0
    middle = values[1:-1, 1:-1]
    laplacian = values[:-2, 1:-1] + values[2:, 1:-1] + values[1:-1, :-2] + values[1:-1, 2:] - 4 * middle
    return float(laplacian.var())


def _nearest(seconds: list[float], wanted: NDArray[np.float64]) -> list[int]:
    times = np.asarray(seconds)
    return [int(index) for index in np.searchsorted((times[1:] + times[:-1]) / 2, wanted)]
