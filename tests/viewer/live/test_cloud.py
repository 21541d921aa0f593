"""Which points a live viewer shows: the same as exports would, filtered without going back to the scene."""

import dataclasses

import numpy as np
import pytest

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.points import select_points
from quantvggt.viewer.live.cloud import make_cloud
from truth_scene import small_scene


@pytest.mark.parametrize("percentile", [0, 37, 50, 99, 100])
def test_a_percentile_means_what_it_means_for_exports(percentile: int) -> None:
    scene = small_scene()
    cloud = make_cloud(scene)
    shown = cloud.points.xyz[cloud.shown(percentile, 0, 2)]
    np.testing.assert_array_equal(shown, select_points(scene, percentile).xyz)


def test_frames_are_shown_from_first_to_last() -> None:
    cloud = make_cloud(small_scene(frames=4))
    assert set(cloud.points.frame[cloud.shown(0, 1, 2)]) == {1, 2}
    parts = [cloud.shown(20, frame, frame).sum() for frame in range(4)]
    assert sum(parts) == cloud.shown(20, 0, 3).sum()


def test_fewer_points_are_filtered_by_the_whole_scenes_percentiles() -> None:
    scene = small_scene()
    whole, some = make_cloud(scene), make_cloud(scene, max_points=500)
    assert len(some) == 500
    np.testing.assert_array_equal(some.thresholds, whole.thresholds)
    assert 200 < some.shown(50, 0, 2).sum() < 300


def test_points_that_are_not_finite_are_left_out() -> None:
    scene = small_scene()
    points = scene.points.copy()
    points[0] = np.nan
    cloud = make_cloud(dataclasses.replace(scene, points=points))
    assert set(cloud.points.frame) == {1, 2}
    with pytest.raises(InputError, match="none is finite"):
        make_cloud(dataclasses.replace(scene, points=np.full_like(points, np.inf)))


def test_values_of_pixels_become_values_of_points() -> None:
    scene = small_scene()
    cloud = make_cloud(scene, max_points=300)
    np.testing.assert_array_equal(cloud.per_pixel(scene.points_conf), cloud.confidence)
