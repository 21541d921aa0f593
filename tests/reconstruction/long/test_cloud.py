"""The points of a long scene, part by part."""

import numpy as np
import pytest

from quantvggt.reconstruction.export import ExportOptions, points_of
from quantvggt.reconstruction.geometry import project
from quantvggt.reconstruction.long.cloud import cloud_of
from truth_scene import small_scene


def test_points_lie_where_their_frames_see_them() -> None:
    scene = small_scene(frames=7)
    cloud = cloud_of(scene, ExportOptions(), 3)
    assert set(np.unique(cloud.frame)) == set(range(7))
    tracks = cloud.tracks
    assert (np.diff(tracks.point) >= 0).all()
    for frame in range(7):
        mine = tracks.frame == frame
        xy, _ = project(cloud.xyz[tracks.point[mine]], scene.extrinsics[frame], scene.intrinsics[frame])
        assert np.median(np.linalg.norm(xy - tracks.xy[mine], axis=1)) < 1
    parts = {(frame // 3) for frame in tracks.frame}
    assert parts == {0, 1, 2}
    assert (tracks.frame // 3 == (cloud.frame // 3)[tracks.point]).all(), "a track stays within its part"


def test_one_part_is_what_points_of_gives() -> None:
    scene = small_scene(frames=3)
    expected, found = points_of(scene, ExportOptions()), cloud_of(scene, ExportOptions(), 8)
    np.testing.assert_array_equal(found.xyz, expected.xyz)
    np.testing.assert_array_equal(found.tracks.xy, expected.tracks.xy)


def test_the_number_of_observations_is_kept_down() -> None:
    scene = small_scene(frames=6)
    whole, drawn = cloud_of(scene, ExportOptions(), 3), cloud_of(scene, ExportOptions(), 3, observations=2000)
    assert len(whole.tracks) > 4000
    assert len(drawn.tracks) == pytest.approx(2000, rel=0.2)
    assert len(cloud_of(scene, ExportOptions(max_points=100), 3)) <= 100
