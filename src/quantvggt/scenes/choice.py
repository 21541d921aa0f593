"""Which frames of a film to take, by when they are shown and how sharp they are."""

import math

import numpy as np
from numpy.typing import NDArray

from quantvggt.core.errors import InputError

_WINDOW = 0.5  # seconds: motion blur comes and goes faster
_CANDIDATES = 15  # frames at most that are looked at for each that is taken


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


def around(seconds: list[float], chosen: list[int]) -> list[list[int]]:
    """For each chosen frame those that may stand in for it, itself the first.

    They lie within half a second and within a quarter of the way to the next chosen frame, so the frames stay spread.
    """
    times = np.asarray(seconds)
    windows = []
    for place, index in enumerate(chosen):
        others = [chosen[near] for near in (place - 1, place + 1) if 0 <= near < len(chosen)]
        reach = min([_WINDOW, *(abs(times[other] - times[index]) / 4 for other in others)])
        first, last = np.searchsorted(times, [times[index] - reach, times[index] + reach + 1e-9])
        inside = np.arange(first, last)
        if len(inside) > _CANDIDATES:
            inside = inside[np.linspace(0, len(inside) - 1, _CANDIDATES).round().astype(int)]
        windows.append([index, *(int(other) for other in inside if other != index)])
    return windows


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
