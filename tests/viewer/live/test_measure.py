"""Picking points with a ray, and the scale that a known length gives."""

import numpy as np
import pytest

from quantvggt.core.errors import InputError
from quantvggt.viewer.live.measure import REACH, Ruler, pick


def test_the_point_under_the_mouse_is_picked() -> None:
    xyz = np.random.default_rng(0).uniform(-1, 1, (500, 3)).astype(np.float32) + np.float32([0, 0, 5])
    front = np.argsort(xyz[:, 2])[:20]
    for index in front:
        assert pick(xyz, np.zeros(3), 3 * xyz[index]) == index


def test_what_is_in_front_hides_what_is_behind() -> None:
    xyz = np.float32([[0, 0, 9], [0.004, 0, 2], [0.001, 0, 2.01], [0, 0, -1]])
    assert pick(xyz, np.zeros(3), [0, 0, 1]) == 2  # nearer to the ray than 1, and as good as level with it
    assert pick(xyz[:1], np.zeros(3), [0, 0, 1]) == 0


def test_beside_all_points_there_is_none() -> None:
    xyz = np.float32([[0, 0, 2]])
    assert pick(xyz, np.zeros(3), [np.sin(2 * REACH), 0, np.cos(2 * REACH)]) is None
    assert pick(xyz, np.zeros(3), [0, 0, -1]) is None
    assert pick(np.empty((0, 3), np.float32), np.zeros(3), [0, 0, 1]) is None
    assert pick(xyz, np.float32([0, 0, 2]), [0, 0, 1]) is None  # the eye is in it


def test_a_known_length_sets_the_scale() -> None:
    ruler = Ruler()
    assert ruler.length is None
    ruler.add([0, 0, 0])
    with pytest.raises(InputError, match="pick two points"):
        ruler.scale(1)
    ruler.add([0, 3, 4])
    assert ruler.length == 5
    assert ruler.scale(1.25) == 0.25
    for length in (0, -1, float("inf"), float("nan")):
        with pytest.raises(InputError, match="above 0"):
            ruler.scale(length)
    ruler.add([1, 1, 1])
    assert (len(ruler.points), ruler.length) == (1, None)
    ruler.add([1, 1, 1])
    with pytest.raises(InputError, match="apart"):
        ruler.scale(1)
    ruler.clear()
    assert ruler.points == []
