"""The Scene itself: what it accepts, saving and loading, choosing points."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.geometry import to_camera
from quantvggt.reconstruction.points import select_points
from quantvggt.reconstruction.scene import Scene
from truth_scene import small_scene

ARRAYS = ("images", "extrinsics", "intrinsics", "depth", "depth_conf", "points", "points_conf")


def test_saving_and_loading_changes_nothing(tmp_path: Path) -> None:
    scene = small_scene()
    scene.save(tmp_path / "out")
    for path in (tmp_path / "out", tmp_path / "out" / "scene.npz"):
        again = Scene.load(path)
        assert again.names == scene.names
        assert again.provenance == scene.provenance
        for name in ARRAYS:
            np.testing.assert_array_equal(getattr(again, name), getattr(scene, name))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cameras.json", "scene.npz"]


def test_saving_twice_needs_permission(tmp_path: Path) -> None:
    scene = small_scene()
    scene.save(tmp_path)
    with pytest.raises(InputError, match=r"scene\.npz.*already exists"):
        scene.save(tmp_path)
    scene.save(tmp_path, overwrite=True)


def test_loading_what_is_not_a_scene(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no saved scene at"):
        Scene.load(tmp_path)
    small_scene().save(tmp_path / "whole")
    whole = (tmp_path / "whole" / "scene.npz").read_bytes()
    damaged = bytearray(whole)
    damaged[len(whole) // 2] ^= 0xFF
    np.savez(tmp_path / "other.npz", depth=np.zeros(3))
    np.savez(tmp_path / "newer.npz", about=np.array(json.dumps({"version": 99})))
    np.savez(tmp_path / "object.npz", about=np.array([{}], dtype=object))
    (tmp_path / "text.npz").write_text("hello")
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "damaged.npz").write_bytes(damaged)
    for name in ("other", "newer", "object", "text", "cut", "damaged"):
        with pytest.raises(InputError, match=rf"{name}\.npz is not a scene, or is damaged"):
            Scene.load(tmp_path / f"{name}.npz")


def test_wrong_shapes_and_dtypes_are_refused() -> None:
    scene = small_scene()
    for name in ARRAYS:
        with pytest.raises(InputError, match=rf"scene\.{name} must be"):
            dataclasses.replace(scene, **{name: getattr(scene, name).astype(np.float16)})
        if name != "images":
            with pytest.raises(InputError, match=rf"scene\.{name} must be"):
                dataclasses.replace(scene, **{name: getattr(scene, name)[:1]})
    with pytest.raises(InputError, match="at least one frame"):
        dataclasses.replace(scene, names=[])


def test_points_are_chosen_by_confidence() -> None:
    scene = small_scene()
    known = scene.points_conf[scene.points_conf > 0]
    assert len(select_points(scene, min_confidence=0)) == known.size
    half = select_points(scene)
    assert abs(len(half) - known.size / 2) <= 1
    kept = scene.points_conf[half.frame, half.row, half.column]
    assert kept.min() >= np.median(known)
    np.testing.assert_array_equal(half.xyz, scene.points[half.frame, half.row, half.column])
    np.testing.assert_array_equal(half.rgb, scene.images[half.frame, half.row, half.column])


def test_a_limit_on_points_draws_the_same_ones_for_the_same_seed() -> None:
    scene = small_scene()
    first, again, other = (select_points(scene, 0, max_points=100, seed=seed) for seed in (1, 1, 2))
    assert len(first) == 100
    np.testing.assert_array_equal(first.xyz, again.xyz)
    assert not np.array_equal(first.xyz, other.xyz)
    order = np.ravel_multi_index((first.frame, first.row, first.column), scene.depth.shape)
    assert (np.diff(order) > 0).all()


def test_points_that_cannot_be_chosen() -> None:
    scene = small_scene()
    for percentile in (-1, 101, float("nan")):
        with pytest.raises(InputError, match="give 0 to 100"):
            select_points(scene, min_confidence=percentile)
    with pytest.raises(InputError, match="ask for at least 1"):
        select_points(scene, max_points=0)
    with pytest.raises(InputError, match="no points"):
        select_points(dataclasses.replace(scene, points_conf=np.zeros_like(scene.points_conf)))


def test_a_transformed_scene_is_the_same_in_another_world() -> None:
    scene = small_scene()
    turn = Rotation.from_euler("xyz", [10, 50, -70], degrees=True).as_matrix()
    moved = scene.transformed(3.0, turn, np.array([1.0, 2.0, -5.0]))
    for frame in range(3):
        seen, now = (to_camera(one.points[frame], one.extrinsics[frame]) for one in (scene, moved))
        known = scene.points_conf[frame] > 0
        np.testing.assert_allclose(now[known], 3 * seen[known], atol=1e-4)
    np.testing.assert_allclose(moved.depth, 3 * scene.depth)
    assert (moved.provenance["scale"], moved.transformed(0.5).provenance["scale"]) == (3.0, 1.5)
    for scale in (0, -1, np.inf, np.nan):
        with pytest.raises(InputError, match="above 0"):
            scene.transformed(scale)
