"""Cameras known beforehand: what is exported is read back, and found by the pictures' names."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.cameras import given_of, read_cameras
from quantvggt.reconstruction.scene import Scene
from quantvggt.scenes.clip import Clip
from reconstruction_photos import scene_of_photos, write_photo
from truth_scene import small_scene


def clip_of(scene: Scene) -> Clip:
    images = torch.from_numpy(scene.images).permute(0, 3, 1, 2).float() / 255
    return Clip(images, scene.names, scene.provenance["source"])


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    """Photos that need a suffix of another kind and a name without blanks when they are exported."""
    paths = [tmp_path / "photos" / name for name in ("IMG 1.jpg", "b.tif", "c.png")]
    for seed, path in enumerate(paths):
        write_photo(path, (400, 300), seed)
    return scene_of_photos(paths)


@pytest.mark.parametrize(
    "place", ["cameras.json", ".", "nerfstudio", "nerfstudio/transforms.json", "colmap", "colmap/sparse/0/images.txt"]
)
def test_what_is_exported_is_read_back(scene: Scene, tmp_path: Path, place: str) -> None:
    scene.export(tmp_path / "out", ["cameras", "nerfstudio", "colmap"])
    given = read_cameras(tmp_path / "out" / place).of(clip_of(scene))
    assert given.known() == {"extrinsics", "intrinsics"}
    np.testing.assert_allclose(given.extrinsics, scene.extrinsics, atol=1e-6)
    np.testing.assert_allclose(given.intrinsics, scene.intrinsics, rtol=1e-6, atol=1e-5)


def test_frames_without_files_have_cameras_of_their_own_size(tmp_path: Path) -> None:
    scene = small_scene()
    scene.export(tmp_path / "out", ["cameras"])
    depth = torch.from_numpy(scene.depth)
    given = given_of(clip_of(scene), tmp_path / "out", depth)
    assert given is not None
    assert given.known() == {"extrinsics", "intrinsics", "depth"}
    np.testing.assert_allclose(given.intrinsics, scene.intrinsics, rtol=1e-6)
    assert given_of(clip_of(scene), None, None) is None
    assert given_of(clip_of(scene), None, depth).known() == {"depth"}  # type: ignore[union-attr]


def test_equal_stems_are_told_apart_by_suffix(tmp_path: Path) -> None:
    paths = [tmp_path / "photos" / name for name in ("a.jpg", "a.png")]
    for seed, path in enumerate(paths):
        write_photo(path, (400, 300), seed)
    scene = scene_of_photos(paths)
    scene.export(tmp_path / "out", ["cameras"])
    back = clip_of(scene)
    turned = replace(back, names=back.names[::-1])
    given = read_cameras(tmp_path / "out").of(turned)
    np.testing.assert_allclose(given.extrinsics, scene.extrinsics[::-1], atol=1e-6)
    unclear = replace(back, names=["a.jpg", "a.webp"])
    with pytest.raises(InputError, match=r"cameras\.json has no camera of its own for a\.webp; add it"):
        read_cameras(tmp_path / "out").of(unclear)


def test_cameras_of_other_pictures_are_refused(scene: Scene, tmp_path: Path) -> None:
    scene.export(tmp_path / "out", ["nerfstudio"], size="network")
    with pytest.raises(InputError, match=r"a camera of 56x56 pixels for IMG 1\.jpg, which has 400x300"):
        read_cameras(tmp_path / "out" / "nerfstudio").of(clip_of(scene))


POSE = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
LENS = {"fl_x": 9, "fl_y": 9, "cx": 5, "cy": 5, "w": 10, "h": 10}
OURS = {"name": "a", "width": 10, "height": 10, "intrinsics": [[9, 0, 5], [0, 9, 5], [0, 0, 1]]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"frames": []}, r"no camera in .*c\.json"),
        ({"frames": 3}, r"cannot read cameras .*c\.json"),
        ([], r"cannot read cameras .*c\.json"),
        ({"frames": [{"name": "a"}]}, "cannot read cameras .*'fl_x'"),
        ({"frames": [{**OURS, "extrinsics": POSE[:2]}]}, r"a matrix is \[2, 4\], expected \[3, 4\]"),
        ({"frames": [{**OURS, "extrinsics": [[2, 0, 0, 0], *POSE[1:]]}]}, "a in .* has no rotation"),
        ({"frames": [{**OURS, "extrinsics": POSE, "intrinsics": [[0, 0, 5], [0, 9, 5], [0, 0, 1]]}]}, "no camera"),
        ({**LENS, "k1": 0.1, "frames": [{"file_path": "a.jpg", "transform_matrix": POSE}]}, r"a\.jpg .* is distorted"),
        ({**LENS, "frames": [{"file_path": "a.jpg", "transform_matrix": POSE[0]}]}, "cannot read cameras"),
    ],
)
def test_what_is_no_camera(tmp_path: Path, content: object, message: str) -> None:
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_cameras(tmp_path / "c.json")


def test_files_that_are_missing_or_broken(tmp_path: Path) -> None:
    (tmp_path / "images.txt").write_text("1 0 0 0 0 0 0 0 1 a.jpg\n\n")
    with pytest.raises(InputError, match=r"cannot read cameras .*images\.txt.*give a cameras\.json"):
        read_cameras(tmp_path)
    (tmp_path / "cameras.txt").write_text("1 PINHOLE 10 10 9 9 5 5\n")
    with pytest.raises(InputError, match=r"a\.jpg in .* has no rotation"):
        read_cameras(tmp_path)
    for name in ("gone.json", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(InputError, match=f"cannot read cameras .*{name}"):
            read_cameras(tmp_path / name)
