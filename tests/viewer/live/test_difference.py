"""The distance between two scenes' points, against scenes that were moved and disturbed by known amounts."""

import dataclasses

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.scene import Scene
from quantvggt.viewer.live.controls import legend_html
from quantvggt.viewer.live.difference import UNKNOWN, compare, round_up
from truth_scene import small_scene

TURN = Rotation.from_euler("xyz", [20, -30, 50], degrees=True).as_matrix()
SHIFT = np.array([0.3, -2.0, 1.0])


@pytest.fixture(scope="module")
def scene() -> Scene:
    return small_scene()


def test_a_similarity_makes_no_difference(scene: Scene) -> None:
    difference = compare(scene, scene.transformed(2.5, TURN, SHIFT))
    known = scene.points_conf > 0
    np.testing.assert_array_equal(np.isfinite(difference.distance), known)
    assert difference.distance[known].max() < 1e-5
    scale, rotation, shift = difference.alignment
    assert scale == pytest.approx(1 / 2.5, rel=1e-5)
    np.testing.assert_allclose(rotation, TURN.T, atol=1e-5)
    np.testing.assert_allclose(shift, -TURN.T @ SHIFT / 2.5, atol=1e-4)


def test_one_moved_point_is_as_far_away_as_it_was_moved(scene: Scene) -> None:
    """Far less sure than the others, so that it takes no part in the alignment."""
    place = tuple(np.argwhere(scene.points_conf > 0)[7])
    points, sure = scene.points.copy(), scene.points_conf.copy()
    points[place] += [0.3, 0.0, 0.4]
    sure[place] = 1e-3
    moved = dataclasses.replace(scene, points=points, points_conf=sure)
    difference = compare(scene, moved.transformed(0.5, TURN, SHIFT))
    viewing = np.linalg.norm(scene.points[scene.points_conf > 0], axis=1).mean()  # the first camera is the world
    assert difference.distance[place] == pytest.approx(0.5 / viewing, rel=1e-3)
    assert np.nanmax(np.delete(difference.distance.ravel(), np.ravel_multi_index(place, sure.shape))) < 1e-5


def test_pixels_without_a_point_in_one_scene_are_unknown_and_grey(scene: Scene) -> None:
    sure = scene.points_conf.copy()
    sure[1] = 0
    difference = compare(scene, dataclasses.replace(scene, points_conf=sure))
    assert np.isnan(difference.distance[1]).all()
    np.testing.assert_array_equal(
        np.unique(difference.colours(difference.distance[1]).reshape(-1, 3), axis=0), [UNKNOWN]
    )


def test_colours_get_brighter_and_end_at_the_top(scene: Scene) -> None:
    noise = np.random.default_rng(0).normal(0, 0.02, scene.points.shape).astype(np.float32)
    difference = compare(scene, dataclasses.replace(scene, points=scene.points + noise))
    known = difference.distance[np.isfinite(difference.distance)]
    assert 0.85 < (known <= difference.top).mean() < 1
    steps = difference.colours(np.float32(difference.top) * np.array([0, 0.25, 0.5, 0.75, 1, 7], np.float32)).sum(-1)
    assert (np.diff(steps[:5].astype(int)) > 0).all()
    assert steps[5] == steps[4]
    assert f"{difference.top:.4g}" in legend_html(difference)


def test_other_frames_cannot_be_compared(scene: Scene) -> None:
    with pytest.raises(InputError, match="different frames"):
        compare(scene, small_scene(frames=2))
    with pytest.raises(InputError, match="different frames"):
        compare(scene, dataclasses.replace(scene, names=["a", "b", "c"]))
    with pytest.raises(InputError, match="no pixel in common"):
        compare(scene, dataclasses.replace(scene, points_conf=np.zeros_like(scene.points_conf)))


def test_rounding_up() -> None:
    values = [0, 0.00015, 0.01, 0.011, 0.02, 0.021, 0.051, 0.99, 1.0, 3.0]
    assert [round_up(value) for value in values] == pytest.approx(
        [0.0001, 0.0002, 0.01, 0.02, 0.02, 0.05, 0.1, 1.0, 1.0, 5.0]
    )
