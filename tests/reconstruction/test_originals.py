"""Scenes of photos and videos, written with the user's own pictures and opened by other programs' rules."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image
from plyfile import PlyData

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.geometry import invert
from quantvggt.reconstruction.scene import Scene
from quantvggt.scenes.video import load_video
from reconstruction_photos import scene_of_photos, write_photo
from truth_scene import small_scene
from videos import write_video


def original_lens(scene: Scene, frame: int) -> np.ndarray:
    """Undo the preprocessing of one frame's intrinsics, number by number."""
    source = scene.provenance["source"]["frames"][frame]
    (sx, sy), (ox, oy) = source["scale"], source["offset"]
    lens = scene.intrinsics[frame].astype(np.float64)
    return np.array([lens[0, 0] / sx, lens[1, 1] / sy, (lens[0, 2] - ox) / sx, (lens[1, 2] - oy) / sy])


@pytest.fixture
def large(tmp_path: Path) -> Scene:
    for index in range(3):
        write_photo(tmp_path / "photos" / f"IMG {index}.jpg", (4032, 3024), index)
    return scene_of_photos(sorted((tmp_path / "photos").iterdir()), mode="crop")


def check_reprojection(model: pycolmap.Reconstruction, tolerance: float = 2e-3) -> None:
    """The errors that were written are those that COLMAP finds."""
    written = {number: point.error for number, point in model.points3D.items()}
    model.update_point_3d_errors()
    np.testing.assert_allclose(
        [point.error for point in model.points3D.values()], list(written.values()), atol=tolerance
    )
    assert max(written.values()) > 0


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_colmap_has_the_original_size_names_and_pictures(large: Scene, tmp_path: Path, kind: str) -> None:
    large.export(tmp_path / "out", ["colmap"], colmap=kind)
    folder = tmp_path / "out" / "colmap"
    suffixes = {path.suffix for path in (folder / "sparse" / "0").iterdir()}
    assert suffixes == {".txt" if kind == "text" else ".bin"}
    model = pycolmap.Reconstruction(folder / "sparse" / "0")
    for frame in range(3):
        image, camera = model.images[frame + 1], model.cameras[frame + 1]
        assert image.name == f"IMG_{frame}.jpg"
        assert Image.open(folder / "images" / image.name).size == (camera.width, camera.height) == (4032, 3024)
        np.testing.assert_allclose(camera.params, original_lens(large, frame), rtol=2e-7)
        assert camera.params[2:].tolist() == [2016, 1512]
        # Nothing had to change, so the picture is the user's own file.
        assert os.path.samefile(folder / "images" / image.name, tmp_path / "photos" / f"IMG {frame}.jpg")
        source = large.provenance["source"]["frames"][frame]
        for point in image.points2D:
            in_frame = point.xy * source["scale"] + source["offset"]
            assert (in_frame > 0).all()
            assert (in_frame < (large.size[1], large.size[0])).all()
    assert (np.array([point.track.length() for point in model.points3D.values()]) >= 2).any()
    check_reprojection(model)
    if kind == "text":
        line = (folder / "sparse" / "0" / "cameras.txt").read_text().splitlines()[1]
        assert line.startswith("1 PINHOLE 4032 3024 ")
        assert line.endswith(" 2016 1512")


def test_rotated_and_strange_photos_become_upright_copies(tmp_path: Path) -> None:
    write_photo(tmp_path / "a" / "x.jpg", (400, 300), 0, orientation=6)
    write_photo(tmp_path / "b" / "x.jpg", (300, 400), 1)
    write_photo(tmp_path / "b" / "y.webp", (300, 400), 2)
    Image.new("RGBA", (300, 400), (9, 8, 7, 255)).save(tmp_path / "b" / "z.png")
    paths = [tmp_path / name for name in ("a/x.jpg", "b/x.jpg", "b/y.webp", "b/z.png")]
    scene = scene_of_photos(paths)
    scene.export(tmp_path / "out", ["colmap"])
    images = tmp_path / "out" / "colmap" / "images"
    written = {path.relative_to(images).as_posix() for path in images.rglob("*") if path.is_file()}
    assert written == {"a/x.jpg", "b/x.jpg", "b/y.jpg", "b/z.png"}
    turned = Image.open(images / "a" / "x.jpg")
    assert turned.size == (300, 400)
    assert turned.getexif().get(0x0112, 1) == 1
    wanted = np.asarray(Image.open(paths[0]).transpose(Image.Transpose.ROTATE_270)).astype(int)
    assert np.abs(np.asarray(turned).astype(int) - wanted).mean() < 3
    assert os.path.samefile(images / "b" / "x.jpg", paths[1])
    assert Image.open(images / "b" / "z.png").mode == "RGB"


def test_each_picture_has_a_camera_of_its_own_size(tmp_path: Path) -> None:
    sizes = [(640, 480), (480, 640), (640, 360), (500, 500)]
    for index, size in enumerate(sizes):
        write_photo(tmp_path / f"{index}.jpg", size, index)
    with pytest.warns(UserWarning, match="differ in shape"):
        scene = scene_of_photos(sorted(tmp_path.glob("*.jpg")), mode="crop")
    scene.export(tmp_path / "out", ["colmap", "nerfstudio"])
    model = pycolmap.Reconstruction(tmp_path / "out" / "colmap" / "sparse" / "0")
    for frame, (width, height) in enumerate(sizes):
        camera = model.cameras[frame + 1]
        assert (camera.width, camera.height) == (width, height)
        np.testing.assert_allclose(camera.params[2:], [width / 2, height / 2], rtol=1e-6)
    with pytest.raises(InputError, match="pictures of one size, these have 480x640, 500x500"):
        scene.export(tmp_path / "shared", ["colmap"], shared_camera=True)
    assert not (tmp_path / "shared").exists()


def test_a_shared_camera_has_the_median_focal_length(large: Scene, tmp_path: Path) -> None:
    large.intrinsics[2, 0, 0] *= 5  # one bad guess must not count
    large.export(tmp_path / "out", ["colmap", "nerfstudio"], shared_camera=True)
    model = pycolmap.Reconstruction(tmp_path / "out" / "colmap" / "sparse" / "0")
    assert model.num_cameras() == 1
    np.testing.assert_allclose(model.cameras[1].params[0], original_lens(large, 0)[0], rtol=1e-6)
    check_reprojection(model)
    about = json.loads((tmp_path / "out" / "nerfstudio" / "transforms.json").read_text())
    assert about["fl_x"] == pytest.approx(model.cameras[1].params[0])
    assert "fl_x" not in about["frames"][0]


def test_the_network_size_is_as_the_model_saw_it(large: Scene, tmp_path: Path) -> None:
    large.export(tmp_path / "out", ["colmap"], size="network")
    model = pycolmap.Reconstruction(tmp_path / "out" / "colmap" / "sparse" / "0")
    height, width = large.size
    for frame in range(3):
        assert (model.cameras[frame + 1].width, model.cameras[frame + 1].height) == (width, height)
        np.testing.assert_allclose(model.cameras[frame + 1].calibration_matrix(), large.intrinsics[frame], rtol=1e-6)
        picture = Image.open(tmp_path / "out" / "colmap" / "images" / model.images[frame + 1].name)
        np.testing.assert_array_equal(np.asarray(picture), large.images[frame])


def test_frames_of_a_video_are_decoded_again(tmp_path: Path) -> None:
    write_video(tmp_path / "v.mp4", 20)
    clip = load_video(tmp_path / "v.mp4", frames=3, size=56)
    height, width = clip.images.shape[-2:]
    scene = dataclasses.replace(
        small_scene(frames=3, size=(height, width)), names=clip.names, provenance={"source": clip.source}
    )
    scene.export(tmp_path / "out", ["colmap", "tum"])
    model = pycolmap.Reconstruction(tmp_path / "out" / "colmap" / "sparse" / "0")
    for frame, name in enumerate(clip.names):
        picture = Image.open(tmp_path / "out" / "colmap" / "images" / f"{name}.jpg")
        assert picture.size == (56, 28)
        index = clip.source["frames"][frame]["frame"]
        assert abs(int(np.asarray(picture).mean()) - 5 * index) < 6  # the video's greys say which frame it is
        assert model.images[frame + 1].name == f"{name}.jpg"
    times = [float(line.split()[0]) for line in (tmp_path / "out" / "trajectory.txt").read_text().splitlines()[1:]]
    assert times == pytest.approx([frame["time"] for frame in clip.source["frames"]])


def test_pictures_that_are_gone_or_changed_are_named_before_anything_is_written(large: Scene, tmp_path: Path) -> None:
    (tmp_path / "photos" / "IMG 1.jpg").unlink()
    with pytest.raises(InputError, match=r'IMG 1\.jpg.*is gone.*size="network"'):
        large.export(tmp_path / "out", ["ply", "colmap"])
    assert not (tmp_path / "out").exists()
    write_photo(tmp_path / "photos" / "IMG 1.jpg", (100, 80))
    with pytest.raises(InputError, match=r"IMG 1\.jpg is 100x80 now, it was 4032x3024"):
        large.export(tmp_path / "out", ["colmap"])
    assert not list((tmp_path / "out").iterdir())


def test_what_gsplat_reads(large: Scene, tmp_path: Path) -> None:
    """examples/datasets/colmap.py of gsplat 1.5: sparse/0 and images/ side by side; every image of the model is found
    by its relative path in images/; every camera is a pinhole; sizes on disk are the cameras' (else it rescales all
    intrinsics by the first picture's); each image has points (its depth loss looks them up by name)."""
    large.export(tmp_path, ["colmap"])
    folder = tmp_path / "colmap"
    model = pycolmap.Reconstruction(folder / "sparse" / "0")
    files = sorted(path.relative_to(folder / "images").as_posix() for path in (folder / "images").rglob("*.*"))
    assert sorted(image.name for image in model.images.values()) == files
    for image in model.images.values():
        camera = model.cameras[image.camera_id]
        assert camera.model == pycolmap.CameraModelId.PINHOLE
        assert Image.open(folder / "images" / image.name).size == (camera.width, camera.height)
        assert len(image.get_observation_points2D()) > 0
        for seen in image.get_observation_points2D():
            assert seen.point3D_id in model.points3D


def test_what_nerfstudio_reads(large: Scene, tmp_path: Path) -> None:
    """nerfstudio 1.1's Nerfstudio data parser: each frame has a file that PIL opens and a 4x4 transform_matrix, with
    fl_x, fl_y, cx, cy, h and w in the frame or at the top; ply_file_path lies in the same world. ns-process-data makes
    a matrix from COLMAP's by inverting it, turning the camera's y and z around, and applying applied_transform."""
    large.export(tmp_path, ["nerfstudio", "ply"])
    folder = tmp_path / "nerfstudio"
    about = json.loads((folder / "transforms.json").read_text())
    applied = np.array(about["applied_transform"])
    assert applied.shape == (3, 4)
    assert len(about["frames"]) == 3
    centres = invert(large.extrinsics)
    for index, frame in enumerate(about["frames"]):
        assert Image.open(folder / frame["file_path"]).size == (frame["w"], frame["h"])
        written = [frame[key] for key in ("fl_x", "fl_y", "cx", "cy")]
        np.testing.assert_allclose(written, original_lens(large, index), rtol=2e-7)
        pose = np.array(frame["transform_matrix"])
        assert pose[3].tolist() == [0, 0, 0, 1]
        np.testing.assert_allclose(np.linalg.det(pose[:3, :3]), 1, atol=1e-5)
        np.testing.assert_allclose(pose[:3, 3], applied[:, :3] @ centres[index, :, 3], atol=1e-6)
        np.testing.assert_allclose(-pose[:3, 2], applied[:, :3] @ large.extrinsics[index, 2, :3], atol=1e-6)  # forward
        np.testing.assert_allclose(-pose[:3, 1], applied[:, :3] @ large.extrinsics[index, 1, :3], atol=1e-6)  # down
    points = PlyData.read(folder / about["ply_file_path"])["vertex"]
    own = PlyData.read(tmp_path / "points.ply")["vertex"]
    xyz, own_xyz = (np.stack([cloud[axis] for axis in "xyz"], -1) for cloud in (points, own))
    np.testing.assert_allclose(xyz, own_xyz @ applied[:, :3].T, atol=1e-5)


def test_depth_at_the_original_size(tmp_path: Path) -> None:
    for index in range(2):
        write_photo(tmp_path / f"{index}.jpg", (224, 112), index)
    scene = scene_of_photos(sorted(tmp_path.glob("*.jpg")))  # 56 x 28 in the middle of 56 x 56
    scene.depth[:, :14] = scene.depth[:, 42:] = 0  # the padding
    scene.export(tmp_path / "out", ["depth"], depth_size="original")
    about = json.loads((tmp_path / "out" / "depth" / "depth.json").read_text())
    slack = 1 / about["depth_scale"]
    for index, frame in enumerate(about["frames"]):
        stored = np.asarray(Image.open(tmp_path / "out" / "depth" / frame["file"])) / about["depth_scale"]
        assert stored.shape == (112, 224) == (frame["height"], frame["width"])
        small = scene.depth[index, 14:42]
        padded = np.pad(small, 1, mode="edge")
        around = np.stack([padded[1 + dy : 29 + dy, 1 + dx : 57 + dx] for dy in (-1, 0, 1) for dx in (-1, 0, 1)])
        low, high = (np.repeat(np.repeat(extreme, 4, 0), 4, 1) for extreme in (around.min(0), around.max(0)))
        assert ((stored >= low - slack) & (stored <= high + slack)).all()
        # Where surfaces are far apart, each value is that of one of them.
        apart = high > 1.3 * np.maximum(low, 1e-6)
        assert apart.any()
        nearest = np.repeat(np.repeat(small, 4, 0), 4, 1)
        distances = [np.abs(stored - np.repeat(np.repeat(value, 4, 0), 4, 1)) for value in around]
        within = np.min(distances, axis=0) <= 0.05 * nearest.max()
        assert within[apart].all()
