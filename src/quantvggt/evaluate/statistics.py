"""How sure a table's number is: confidence intervals over scenes, and differences on the same scenes."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

Summary = Callable[[Sequence[str]], Mapping[str, float]]
"""The numbers of a table over the scenes named, one as often as it is named."""

RESAMPLES, CONFIDENCE = 1000, 0.95


class Interval(NamedTuple):
    """Bounds of a confidence interval."""

    low: float
    high: float


class Difference(NamedTuple):
    """Of two models on the same scenes, first minus second, with its confidence interval."""

    value: float
    low: float
    high: float


def bootstrap(
    scenes: Sequence[str],
    summarise: Summary,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> dict[str, Interval]:
    """Confidence intervals of the numbers that `summarise` gives over `scenes`, by the bootstrap over scenes.

    Efron and Tibshirani, "An introduction to the bootstrap", 1993, the percentile interval: as many scenes are drawn
    with replacement as there are, `resamples` times, and the interval holds the middle `confidence` of what comes out.
    Frames or pairs of one scene depend on each other, so scenes are what is drawn. For few scenes it is too narrow (of
    n scenes about by sqrt((n - 1) / n)). A resample that lacks a number doesn't count for it.
    Nothing where there are fewer than two scenes.
    """
    drawn = [summarise(names) for names in _resamples(scenes, seed, resamples)]
    tail = (1 - confidence) / 2
    found = {}
    for key in dict.fromkeys(key for numbers in drawn for key in numbers):
        values = [numbers[key] for numbers in drawn if key in numbers]
        low, high = np.quantile(values, [tail, 1 - tail])
        found[key] = Interval(float(low), float(high))
    return found


def paired_difference(
    scenes: Sequence[str],
    first: Summary,
    second: Summary,
    seed: int = 0,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
) -> dict[str, Difference]:
    """Differences of the numbers that both give over `scenes`, with intervals by `bootstrap` over the same resamples.

    What makes a scene hard is the same for both and cancels, so far smaller differences are seen than the intervals of
    the two suggest. An interval without 0 in it: a difference that other scenes would show too.
    Nothing where there are fewer than two scenes.
    """

    def difference(names: Sequence[str]) -> dict[str, float]:
        ours, theirs = first(names), second(names)
        return {key: ours[key] - theirs[key] for key in ours if key in theirs}

    intervals = bootstrap(scenes, difference, seed, resamples, confidence)
    values = difference(scenes) if intervals else {}
    return {key: Difference(values[key], *intervals[key]) for key in values}


def _resamples(scenes: Sequence[str], seed: int, count: int) -> list[list[str]]:
    if len(scenes) < 2:
        return []
    places = np.random.default_rng(seed).integers(len(scenes), size=(count, len(scenes)))
    return [[scenes[place] for place in row] for row in places.tolist()]
