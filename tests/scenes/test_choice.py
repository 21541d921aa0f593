"""Which frames are taken: by time, not by index; sharp ones within their slot."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image, ImageFilter

from quantvggt.scenes.choice import at_rate, evenly, sharpness, slots

UNEVEN = [0.05 * index for index in range(21)] + [float(second) for second in range(2, 11)]


def test_frames_are_spread_over_time() -> None:
    assert evenly(UNEVEN, 6) == [0, 21, 23, 25, 27, 29]
    assert evenly([index / 10 for index in range(41)], 5) == [0, 10, 20, 30, 40]
    assert evenly([0.0, 1.0], 5) == [0, 1]
    assert evenly([0.0, 1.0], 1) == [0]
    assert at_rate(UNEVEN, 0.5) == [0, 21, 23, 25, 27, 29]
    assert at_rate([0.0], 3) == [0]


@pytest.mark.parametrize("seed", range(20))
def test_as_many_different_frames_as_asked_for_in_order(seed: int) -> None:
    rng = np.random.default_rng(seed)
    seconds = np.cumsum(rng.exponential(1, 30) ** 4).tolist()
    for count in (1, 2, 7, 29, 30, 31):
        chosen = evenly(seconds, count)
        assert len(chosen) == min(count, 30)
        assert chosen == sorted(set(chosen))
        assert all(0 <= index < 30 for index in chosen)
        candidates = slots(seconds, chosen)
        everyone = [index for slot in candidates for index in slot]
        assert [slot[0] for slot in candidates] == chosen
        assert len(everyone) == len(set(everyone))
        bounds = [(min(slot), max(slot)) for slot in candidates]
        assert all(left[1] < right[0] for left, right in pairwise(bounds))


def test_slots_cut_time_into_equal_parts() -> None:
    seconds = [index / 10 for index in range(61)]
    candidates = slots(seconds, evenly(seconds, 6))
    for number, slot in enumerate(candidates):
        assert all(number * 1.0 - 1e-9 <= seconds[index] <= (number + 1) * 1.0 + 1e-9 for index in slot)
    minutes = [index / 30 for index in range(30 * 600)]
    for slot in slots(minutes, evenly(minutes, 10)):
        assert max(abs(minutes[index] - minutes[slot[0]]) for index in slot) <= 0.5 + 1e-9


def test_sharpness_falls_with_blur() -> None:
    rng = np.random.default_rng(0)
    sharp = Image.fromarray(rng.integers(0, 255, (60, 80), dtype=np.uint8))
    scores = [sharpness(np.asarray(sharp.filter(ImageFilter.GaussianBlur(radius)))) for radius in (0, 1, 2, 4)]
    assert scores == sorted(scores, reverse=True)
    assert sharpness(np.full((9, 9), 7, np.uint8)) == 0
    assert sharpness(np.zeros((1, 2), np.uint8)) == 0
    corner = np.zeros((3, 4), np.uint8)
    corner[1, 1] = 10  # Laplacian: -40 there, 10 beside it
    assert sharpness(corner) == np.var([-40, 10])
