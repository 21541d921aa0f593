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
from scipy.spatial import cKDTree

from quantvggt.core.errors import InputError
from quantvggt.reconstruction.export import FORMATS, ExportOptions, points_of
from quantvggt.reconstruction.export.glb import linear
from quantvggt.reconstruction.export.text import decimals_for, table
from quantvggt.reconstruction.fuse import fuse
from quantvggt.reconstruction.geometry import camera_centres
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


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_colmap_reads_our_model(scene: Scene, tmp_path: Path, kind: str) -> None:
    scene.export(tmp_path, ["colmap"], min_confidence=20, colmap=kind)
    model = pycolmap.Reconstruction(tmp_path / "colmap" / "sparse" / "0")
    cloud = fuse(scene, select_points(scene, min_confidence=20))
    height, width = scene.size
    assert model.num_images() == len(scene.names)
    assert model.num_points3D() == len(cloud)
    assert model.compute_num_observations() == len(cloud.tracks)
    for frame in range(len(scene.names)):
        image = model.images[frame + 1]
        assert " " not in image.name
        written = np.asarray(Image.open(tmp_path / "colmap" / "images" / image.name))
        np.testing.assert_array_equal(written, scene.images[frame])
        np.testing.assert_allclose(image.cam_from_world().matrix(), scene.extrinsics[frame], atol=1e-5)
        camera = model.cameras[image.camera_id]
        assert (camera.model.name, camera.width, camera.height) == ("PINHOLE", width, height)
        np.testing.assert_allclose(camera.calibration_matrix(), scene.intrinsics[frame], rtol=1e-6)
        assert sum(point.has_point3D() for point in image.points2D) == (cloud.tracks.frame == frame).sum()


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_colmap_points_have_their_tracks_colours_and_errors(scene: Scene, tmp_path: Path, kind: str) -> None:
    scene.export(tmp_path, ["colmap"], colmap=kind)
    model = pycolmap.Reconstruction(tmp_path / "colmap" / "sparse" / "0")
    cloud = fuse(scene, select_points(scene))
    points = list(model.points3D.values())
    near, index = cKDTree([point.xyz for point in points]).query(cloud.xyz[::13])
    assert near.max() < 1e-5
    lengths = set()
    for number, found in zip(range(0, len(cloud), 13), index, strict=True):
        point, mine = points[found], cloud.tracks.point == number
        assert point.color.tolist() == cloud.rgb[number].tolist()
        track = {frame + 1: xy for frame, xy in zip(cloud.tracks.frame[mine], cloud.tracks.xy[mine], strict=True)}
        assert {element.image_id for element in point.track.elements} == set(track)
        errors = []
        for element in point.track.elements:
            image = model.images[element.image_id]
            observed = image.points2D[element.point2D_idx]
            assert model.points3D[observed.point3D_id].xyz.tolist() == point.xyz.tolist()
            np.testing.assert_allclose(observed.xy, track[element.image_id], atol=1e-3)
            errors.append(np.linalg.norm(image.project_point(point.xyz) - observed.xy))
        assert point.error == pytest.approx(np.mean(errors), abs=2e-3)
        lengths.add(len(errors))
    assert {1, 2} <= lengths


def test_numbers_as_text_read_back_as_they_are() -> None:
    rng = np.random.default_rng(0)
    count = 70_000  # more than one portion
    values = rng.normal(size=count) * 10.0 ** rng.integers(-3, 5, count)
    values[:6] = [0, -0.0004, 1234567.5, -1, 9.9999999, 0.5]
    whole = rng.integers(0, 10**6, count)
    lines = table([(values, 3), (whole, 0), (-values, 0), (values, decimals_for(values))]).decode().splitlines()
    assert len(lines) == count
    assert lines[2].split()[:2] == ["1234567.500", str(whole[2])]
    assert not any("  " in line or line.startswith(" ") or line.endswith(" ") for line in lines)
    read = np.array([line.split() for line in lines], np.float64)
    np.testing.assert_allclose(read[:, 0], values, atol=0.00051)
    np.testing.assert_array_equal(read[:, 1], whole)
    np.testing.assert_allclose(read[:, 2], -values, atol=0.51)
    np.testing.assert_allclose(read[:, 3], values, atol=1e-7 * np.median(np.abs(values)))
    pairs = table([(values[:4], 1)], ends=np.array([False, True, False, True]))
    assert pairs == b"0.0 0.0\n1234567.5 -1.0\n"
    assert table([(values[:0], 3)]) == b""


def test_ply(scene: Scene, tmp_path: Path) -> None:
    scene.export(tmp_path, ["ply"], min_confidence=30, max_points=500, seed=4)
    ply = PlyData.read(tmp_path / "points.ply")
    assert not ply.text
    vertices, cloud = ply["vertex"], fuse(scene, select_points(scene, 30), max_points=500, seed=4)
    assert len(vertices) == 500
    xyz = np.stack([vertices[axis] for axis in "xyz"], -1)
    assert xyz.dtype == np.float32
    np.testing.assert_array_equal(xyz, cloud.xyz)
    np.testing.assert_array_equal(np.stack([vertices[c] for c in ("red", "green", "blue")], -1), cloud.rgb)


def test_glb_is_right_side_up(scene: Scene, tmp_path: Path) -> None:
    scene.export(tmp_path, ["glb"])
    loaded = trimesh.load(tmp_path / "scene.glb")
    cloud, turn = fuse(scene, select_points(scene)), np.array([1, -1, -1])
    placed = {name: loaded.graph.get(name) for name in loaded.graph.nodes_geometry}
    clouds = [name for name in placed if isinstance(loaded.geometry[placed[name][1]], trimesh.PointCloud)]
    assert len(clouds) == 1
    matrix, geometry = placed[clouds[0]]
    points = loaded.geometry[geometry]
    world = trimesh.transform_points(points.vertices, matrix)
    np.testing.assert_allclose(world, cloud.xyz * turn, atol=1e-5)
    # glTF's vertex colours are linear: what a viewer shows is their sRGB encoding.
    light = points.colors[:, :3] / 255
    shown = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055) * 255
    bright = cloud.rgb > 60  # where the loader's 8 bits resolve it
    assert np.abs(shown - cloud.rgb)[bright].max() < 3
    assert np.abs(light * 255 - cloud.rgb)[bright].max() > 20

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
    formats = ["cameras", "colmap", "depth", "glb", "npz", "ply", "nerfstudio", "tum"]
    assert formats == list(FORMATS)
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
    with pytest.raises(InputError, match=r"export has no option 'voxels'; it has: .*voxel"):
        scene.export(tmp_path, ["ply"], voxels=1)
    for option, value in (("size", "big"), ("depth_size", "big"), ("colmap", "xml")):
        with pytest.raises(InputError, match=rf"{option} is '{value}'; choose one of: "):
            scene.export(tmp_path, ["cameras"], **{option: value})
    with pytest.raises(InputError, match="give 0 to 100"):
        scene.export(tmp_path, ["cameras", "ply"], min_confidence=500)
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write"):
        scene.export(tmp_path / "file", ["cameras"])


def test_linear_light_of_srgb() -> None:
    values = linear(np.array([[0, 10, 11, 128, 255]], np.uint8))[0]
    np.testing.assert_allclose(values, [0, 0.0030353, 0.0033465, 0.2158605, 1], atol=1e-7)


def test_glb_has_meshes_of_each_frame(scene: Scene, tmp_path: Path) -> None:
    scene.export(tmp_path, ["glb"], mesh=True, min_confidence=0)
    loaded = trimesh.load(tmp_path / "scene.glb")
    assert sum(name.startswith("frame_") for name in loaded.geometry) == len(scene.names)
    for frame in range(len(scene.names)):
        mesh = loaded.geometry[f"frame_{frame:04d}"]
        to_eye = camera_centres(scene.extrinsics)[frame] * [1, -1, -1] - mesh.triangles_center
        flat = mesh.area_faces > 1e-9
        facing = (mesh.face_normals * to_eye).sum(-1)
        assert (facing[flat] > 0).all()
        # No triangle spans a step in depth: its corners' depths are alike.
        world = mesh.triangles * [1, -1, -1]
        depth = world @ scene.extrinsics[frame, 2, :3] + scene.extrinsics[frame, 2, 3]
        assert (np.ptp(depth, axis=1) <= 0.051 * depth.min(1)).all()
        assert len(mesh.faces) > 500


def test_tum_trajectory(scene: Scene, tmp_path: Path) -> None:
    scene.export(tmp_path, ["tum"])
    rows = np.loadtxt(tmp_path / "trajectory.txt")
    np.testing.assert_array_equal(rows[:, 0], range(len(scene.names)))
    np.testing.assert_allclose(rows[:, 1:4], camera_centres(scene.extrinsics), atol=1e-6)
    for row, camera in zip(rows, scene.extrinsics, strict=True):
        back = pycolmap.Rotation3d(row[4:8]).matrix()  # pycolmap's quaternions are xyzw too
        np.testing.assert_allclose(back, camera[:, :3].T, atol=1e-6)


def test_points_without_merging_and_cleaning_are_the_selected_pixels(scene: Scene, tmp_path: Path) -> None:
    cloud = points_of(scene, ExportOptions(min_confidence=30, clean=False, voxel=0))
    chosen = select_points(scene, 30)
    for name in ("frame", "row", "column", "rgb"):
        np.testing.assert_array_equal(getattr(cloud, name), getattr(chosen, name))
    scene.export(tmp_path, ["ply"], min_confidence=30, clean=False, voxel=0)
    assert len(PlyData.read(tmp_path / "points.ply")["vertex"]) == len(chosen)
