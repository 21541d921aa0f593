"""Each export, read back by another program's reader."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pycolmap
import pytest
import trimesh
from PIL import Image
from plyfile import PlyData

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.points import select_points
from quantvggt.reconstruction.scene import Scene
from truth_scene import small_scene


@pytest.fixture(scope="module")
def scene() -> Scene:
    return dataclasses.replace(small_scene(), names=["a b.jpg", "sub/c.png", "sub/d.e.png"])


def test_cameras_json(scene: Scene, tmp_path: Path) -> None:
    assert scene.export(tmp_path, ["cameras"]) == {"cameras": tmp_path / "cameras.json"}
    read = json.loads((tmp_path / "cameras.json").read_text())
    assert [frame["name"] for frame in read["frames"]] == scene.names
    np.testing.assert_array_equal([frame["extrinsics"] for frame in read["frames"]], scene.extrinsics)
    np.testing.assert_array_equal([frame["intrinsics"] for frame in read["frames"]], scene.intrinsics)
    for words in ("world to camera", "OpenCV"):
        assert words in read["convention"]["extrinsics"]
    assert read["made_by"]["model"] == "truth"
    assert "original" not in read["frames"][0]


def test_cameras_json_has_the_original_pictures_intrinsics(scene: Scene, tmp_path: Path) -> None:
    """A point must project to the original's pixel that was brought to the clip's pixel."""
    mapping = {"path": "x.jpg", "width": 400, "height": 300, "scale": [0.14, 0.15], "offset": [0, -7]}
    source = {"frames": [mapping] * len(scene.names)}
    dataclasses.replace(scene, provenance={"source": source}).export(tmp_path, "cameras")
    frame = json.loads((tmp_path / "cameras.json").read_text())["frames"][0]
    assert (frame["original"]["width"], frame["original"]["height"]) == (400, 300)
    point = np.array([0.3, -0.2, 2.0])
    in_clip, in_original = (
        np.array(lens) @ point / 2.0 for lens in (frame["intrinsics"], frame["original"]["intrinsics"])
    )
    np.testing.assert_allclose(in_original[:2] * [0.14, 0.15] + [0, -7], in_clip[:2])


def test_colmap_reads_our_text_model(scene: Scene, tmp_path: Path) -> None:
    scene.export(tmp_path, ["colmap"], min_confidence=20)
    model = pycolmap.Reconstruction(tmp_path / "colmap" / "sparse" / "0")
    cloud = select_points(scene, min_confidence=20)
    height, width = scene.size
    assert model.num_images() == len(scene.names)
    assert model.num_points3D() == len(cloud)
    for frame in range(len(scene.names)):
        image = model.images[frame + 1]
        assert " " not in image.name
        written = np.asarray(Image.open(tmp_path / "colmap" / "images" / image.name))
        np.testing.assert_array_equal(written, scene.images[frame])
        np.testing.assert_allclose(image.cam_from_world().matrix(), scene.extrinsics[frame], atol=1e-5)
        camera = model.cameras[image.camera_id]
        assert (camera.model.name, camera.width, camera.height) == ("PINHOLE", width, height)
        np.testing.assert_allclose(camera.calibration_matrix(), scene.intrinsics[frame], rtol=1e-6)
        assert sum(point.has_point3D() for point in image.points2D) == (cloud.frame == frame).sum()


def test_colmap_points_project_onto_their_observations(scene: Scene, tmp_path: Path) -> None:
    scene.export(tmp_path, ["colmap"])
    model = pycolmap.Reconstruction(tmp_path / "colmap" / "sparse" / "0")
    worst = 0.0
    for point in model.points3D.values():
        (track,) = point.track.elements
        image = model.images[track.image_id]
        observed = image.points2D[track.point2D_idx].xy
        projected = image.project_point(point.xyz)
        worst = max(worst, float(np.abs(projected - observed).max()))
        column, row = (observed - 0.5).astype(int)
        assert point.color.tolist() == scene.images[track.image_id - 1, row, column].tolist()
        assert point.error < 1e-2
    assert worst < 1e-2


def test_ply(scene: Scene, tmp_path: Path) -> None:
    scene.export(tmp_path, ["ply"], min_confidence=30, max_points=500, seed=4)
    ply = PlyData.read(tmp_path / "points.ply")
    assert not ply.text
    vertices, cloud = ply["vertex"], select_points(scene, 30, 500, 4)
    assert len(vertices) == 500
    xyz = np.stack([vertices[axis] for axis in "xyz"], -1)
    assert xyz.dtype == np.float32
    np.testing.assert_array_equal(xyz, cloud.xyz)
    np.testing.assert_array_equal(np.stack([vertices[c] for c in ("red", "green", "blue")], -1), cloud.rgb)


def test_glb_is_right_side_up(scene: Scene, tmp_path: Path) -> None:
    scene.export(tmp_path, ["glb"])
    loaded = trimesh.load(tmp_path / "scene.glb")
    cloud, turn = select_points(scene), np.array([1, -1, -1])
    placed = {name: loaded.graph.get(name) for name in loaded.graph.nodes_geometry}
    clouds = [name for name in placed if isinstance(loaded.geometry[placed[name][1]], trimesh.PointCloud)]
    assert len(clouds) == 1
    matrix, geometry = placed[clouds[0]]
    points = loaded.geometry[geometry]
    world = trimesh.transform_points(points.vertices, matrix)
    np.testing.assert_allclose(world, cloud.xyz * turn, atol=1e-5)
    np.testing.assert_array_equal(points.colors[:, :3], cloud.rgb)

    cameras = sorted(set(placed) - set(clouds))
    assert len(cameras) == len(scene.names)
    # The first camera stands in the origin and looks along -z in glTF.
    matrix, geometry = placed[cameras[0]]
    wires = trimesh.transform_points(loaded.geometry[geometry].vertices, matrix)
    assert wires[:, 2].max() < 0.05 * -wires[:, 2].min()
    assert wires[:, 2].min() < 0


def test_depth(scene: Scene, tmp_path: Path) -> None:
    scene.export(tmp_path, ["depth"])
    folder = tmp_path / "depth"
    about = json.loads((folder / "depth.json").read_text())
    scale = about["depth_scale"]
    assert 6553 < scene.depth.max() * scale <= 65535
    for index, frame in enumerate(about["frames"]):
        assert frame["name"] == scene.names[index]
        image = Image.open(folder / frame["file"])
        assert image.mode.startswith("I")
        stored = np.asarray(image).astype(np.float64)
        np.testing.assert_allclose(stored / scale, scene.depth[index], atol=0.501 / scale)
        np.testing.assert_array_equal(stored == 0, scene.depth[index] == 0)
        preview = np.asarray(Image.open(folder / frame["file"].replace(".png", "_preview.png"))).astype(int)
        assert (preview[scene.depth[index] == 0] == 0).all()
        brightness, seen = preview.sum(-1), scene.depth[index] > 0
        near = seen & (scene.depth[index] < np.percentile(scene.depth[scene.depth > 0], 20))
        far = seen & (scene.depth[index] > np.percentile(scene.depth[scene.depth > 0], 80))
        if near.any() and far.any():
            assert brightness[near].mean() > brightness[far].mean()
    exact = np.load(folder / "depth.npz")
    np.testing.assert_array_equal(exact["depth"], scene.depth)
    np.testing.assert_array_equal(exact["confidence"], scene.depth_conf)


def test_frames_of_equal_stem_get_distinct_files(scene: Scene, tmp_path: Path) -> None:
    same = dataclasses.replace(scene, names=["x.jpg", "x.png", "../../X.png"])
    same.export(tmp_path, ["colmap", "depth"])
    assert len(list((tmp_path / "colmap" / "images").iterdir())) == 3
    assert len(list((tmp_path / "depth").glob("*_preview.png"))) == 3


def test_several_formats_at_once_and_overwriting(scene: Scene, tmp_path: Path) -> None:
    formats = ["cameras", "colmap", "depth", "glb", "npz", "ply"]
    written = scene.export(tmp_path, formats)
    assert list(written) == formats
    assert all(path.exists() for path in written.values())
    with pytest.raises(InputError, match=r"points\.ply already exists"):
        scene.export(tmp_path, ["ply"])
    (tmp_path / "colmap" / "stale.txt").touch()
    scene.export(tmp_path, formats, overwrite=True)
    assert not (tmp_path / "colmap" / "stale.txt").exists()


def test_wrong_requests_write_nothing(scene: Scene, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"cannot export 'obj'.*cameras, colmap, depth, glb, npz, ply"):
        scene.export(tmp_path, ["ply", "obj"])
    with pytest.raises(InputError, match="cannot export nothing"):
        scene.export(tmp_path, [])
    with pytest.raises(InputError, match="give 0 to 100"):
        scene.export(tmp_path, ["cameras", "ply"], min_confidence=500)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        scene.export(tmp_path / "file", ["cameras"])
