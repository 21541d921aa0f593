"""One's own COLMAP and nerfstudio projects as truth, and cameras with distortion."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dataset_minis import MINIS, write_mini
from quantvggt.core.errors import InputError
from quantvggt.scenes.datasets import Picture, open_dataset
from quantvggt.scenes.datasets.camera import MODELS, make_camera
from quantvggt.scenes.datasets.colmap_model import read_model
from truth_scene import small_scene

PARAMETERS = {
    "f": 90.0, "fx": 91.0, "fy": 88.0, "cx": 47.0, "cy": 37.0, "k1": -0.11, "k2": 0.03, "k3": -0.012, "k4": 0.004,
    "p1": 0.003, "p2": -0.002, "d1": 0.02, "d2": -0.01, "d3": 0.003, "sx": 0.004, "sy": -0.003,
}  # fmt: skip
KNOWN = [model for model, names in MODELS.items() if names]


def values_of(model: str) -> list[float]:
    return [PARAMETERS[name] for name in MODELS[model].split()]


@pytest.mark.parametrize("model", KNOWN)
def test_every_camera_model_projects_as_colmap_does(model: str) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pip install 'quantvggt[refine]'")
    rng = np.random.default_rng(0)
    rays = np.column_stack([rng.uniform(-0.6, 0.6, (50, 2)), np.ones(50)])
    theirs = pycolmap.Camera(model=model, width=96, height=72, params=values_of(model)).img_from_cam(rays)
    ours = np.column_stack(make_camera(model, 96, 72, values_of(model)).distorted(rays[:, 0], rays[:, 1]))
    assert ours == pytest.approx(np.array(theirs), abs=1e-9)


def test_models_have_colmaps_numbers() -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pip install 'quantvggt[refine]'")
    for number, model in enumerate(MODELS):
        assert int(getattr(pycolmap.CameraModelId, model)) == number


@pytest.mark.parametrize("model", ["OPENCV", "OPENCV_FISHEYE", "THIN_PRISM_FISHEYE"])
def test_straightened_pictures_show_points_where_a_pinhole_does(model: str) -> None:
    """A bright spot, drawn where the camera sees a point, is found where the pinhole sees it."""
    camera = make_camera(model, 96, 72, values_of(model))
    for x, y in ((0.3, 0.2), (-0.35, -0.1), (0.05, -0.3)):
        u, v = (float(part) for part in camera.distorted(np.array(x), np.array(y)))
        rows, columns = np.indices((72, 96)) + 0.5
        spot = np.exp(-((columns - u) ** 2 + (rows - v) ** 2) / 4)
        pixels = Image.fromarray(np.repeat((spot * 255).astype(np.uint8)[..., None], 3, 2))
        picture, found = camera.straighten(pixels, (spot > 0.5) * np.float32(7))
        straight = np.array(picture, np.float64)[..., 0]
        centre = [(straight * part).sum() / straight.sum() for part in (columns, rows)]
        wanted = [x * camera.lens[0, 0] + camera.lens[0, 2], y * camera.lens[1, 1] + camera.lens[1, 2]]
        assert centre == pytest.approx(wanted, abs=0.25)
        assert found.max() == 7
        assert np.argwhere(found).mean(0) + 0.5 == pytest.approx(wanted[::-1], abs=0.6)


@pytest.mark.filterwarnings("error")
def test_a_lens_that_sees_nothing_gives_black() -> None:
    camera = make_camera("FULL_OPENCV", 28, 28, [20, 20, -9, -9, 1e300, 1e300, 0, 0, 1e300, -1e300, 0, 0])
    picture, values = camera.straighten(Image.new("RGB", (28, 28), "white"), np.ones((28, 28), np.float32))
    assert not np.array(picture).any()
    assert not values.any()


def test_cameras_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="model FOV can't be read"):
        make_camera("FOV", 96, 72, [1.0] * 5)
    with pytest.raises(InputError, match="has 4 parameters, not 3"):
        make_camera("PINHOLE", 96, 72, [1.0] * 3)
    for values in ([0.0, 1, 1, 1], [1, float("nan"), 1, 1]):
        with pytest.raises(InputError, match="can't be"):
            make_camera("PINHOLE", 96, 72, values)


@pytest.mark.parametrize("kind", ["text", "binary"])
def test_what_we_export_reads_back(kind: str, tmp_path: Path) -> None:
    scene = small_scene(frames=3)
    scene.export(tmp_path, formats=["colmap"], colmap=kind, size="network")
    dataset = open_dataset("colmap", tmp_path / "colmap")
    assert dataset.scenes() == ["."]
    clip = dataset.clip(".", range(3), Picture(56))
    assert clip.truth.extrinsics.numpy() == pytest.approx(scene.extrinsics, abs=1e-5)
    assert clip.truth.intrinsics.numpy() == pytest.approx(scene.intrinsics, rel=1e-5)
    assert clip.images.numpy() == pytest.approx(scene.images.transpose(0, 3, 1, 2) / np.float32(255), abs=0.1)


def test_what_we_export_for_nerfstudio_reads_back(tmp_path: Path) -> None:
    scene = small_scene(frames=3)
    scene.export(tmp_path, formats=["nerfstudio"], size="network")
    clip = open_dataset("colmap", tmp_path / "nerfstudio").clip(".", range(3), Picture(56))
    assert relative(clip.truth.extrinsics.double().numpy()) == pytest.approx(
        relative(scene.extrinsics.astype(np.float64)), abs=1e-5
    )
    assert clip.truth.intrinsics.numpy() == pytest.approx(scene.intrinsics, rel=1e-5)


def relative(extrinsics: np.ndarray) -> np.ndarray:
    square = np.tile(np.eye(4), (len(extrinsics), 1, 1))
    square[:, :3] = extrinsics
    return square @ np.linalg.inv(square[0])


def test_colmaps_own_binary_model_reads_as_its_text(tmp_path: Path) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pip install 'quantvggt[refine]'")
    text = write_mini("colmap", tmp_path, scenes=1) / "bicycle/sparse/0"
    binary = tmp_path / "binary"
    binary.mkdir()
    (text / "points3D.txt").write_text("")
    pycolmap.Reconstruction(str(text)).write_binary(str(binary))
    wanted, found = read_model(text), read_model(binary)
    assert set(found) == set(wanted) == {f"{frame}.png" for frame in range(4)}
    for name, posed in wanted.items():
        assert found[name].extrinsics == pytest.approx(posed.extrinsics, abs=1e-12)
        assert found[name].camera.lens == pytest.approx(posed.camera.lens)


def test_pictures_smaller_than_their_camera_have_its_lens_scaled(tmp_path: Path) -> None:
    root = write_mini("colmap", tmp_path, scenes=1)
    for path in (root / "bicycle/images").iterdir():
        with Image.open(path) as image:
            image.resize((48, 36)).save(path)
    clip = open_dataset("colmap", root).clip("bicycle", [0], Picture(42, "stretch", 28))
    fx, fy, cx, cy = MINIS["colmap"].lens
    wanted = [[fx * 42 / 96, 0, cx * 42 / 96], [0, fy * 28 / 72, cy * 28 / 72], [0, 0, 1]]
    assert clip.truth.intrinsics[0].numpy() == pytest.approx(np.array(wanted), rel=1e-6)


def test_orientation_tags_turn_nothing(tmp_path: Path) -> None:
    """COLMAP reads pixels as they lie in the file, so its cameras know nothing of tags."""
    root = write_mini("colmap", tmp_path, scenes=1)
    before = open_dataset("colmap", root).clip("bicycle", [0], Picture(42))
    path = root / "bicycle/images/0.png"
    with Image.open(path) as image:
        tags = image.getexif()
        tags[0x0112] = 6
        image.load()
        image.save(path, exif=tags)
    assert open_dataset("colmap", root).clip("bicycle", [0], Picture(42)).images.equal(before.images)


def test_nerf_scenes_with_an_angle_of_view(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40)).save(tmp_path / "r_0.png")
    pose = np.diag([1.0, -1, -1, 1])
    frame = {"file_path": "./r_0", "transform_matrix": pose.tolist()}
    (tmp_path / "transforms.json").write_text(json.dumps({"camera_angle_x": 2 * np.arctan(0.5), "frames": [frame]}))
    clip = open_dataset("colmap", tmp_path).clip(".", [0], Picture(56, "stretch", 42))
    assert clip.truth.extrinsics[0].numpy() == pytest.approx(np.eye(4)[:3])
    assert clip.truth.intrinsics[0].numpy() == pytest.approx(
        np.array([[56, 0, 28], [0, 60 * 42 / 40, 21], [0, 0, 1]]), rel=1e-6
    )


def test_projects_without_photos_or_with_broken_files_are_refused(tmp_path: Path) -> None:
    root = write_mini("colmap", tmp_path, scenes=1)
    folder = root / "bicycle"
    dataset = open_dataset("colmap", root)
    shutil.move(folder / "images", folder / "photos")
    with pytest.raises(InputError, match="no folder images"):
        dataset.frames("bicycle")
    (folder / "transforms.json").write_text('{"frames": [{"file_path": "../../x.png", "transform_matrix": [[1]]}]}')
    with pytest.raises(InputError, match="lies outside"):
        dataset.frames("bicycle")
    (folder / "transforms.json").write_text('{"frames": [{"file_path": "x.png", "transform_matrix": [[1]]}]}')
    with pytest.raises(InputError, match=r"transforms.json.*transform_matrix of x.png"):
        dataset.frames("bicycle")
