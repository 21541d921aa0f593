"""CO3D's cameras and annotations."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from dataset_minis import MINIS, write_mini
from quantvggt.core.errors import InputError
from quantvggt.scenes.datasets import Picture, RandomFrames, open_dataset
from quantvggt.scenes.datasets.co3d import CATEGORIES, OTHERS, camera_lens, camera_pose

GOLDEN = json.loads((Path(__file__).parents[2] / "golden/datasets/co3d_cameras.json").read_text())
pytestmark = pytest.mark.filterwarnings("ignore:dataset co3d is not complete")


@pytest.mark.parametrize("told", GOLDEN)
def test_cameras_from_pytorch3d_to_opencv(told: dict) -> None:
    frame = {
        "R": told["pytorch3d_R"],
        "T": told["pytorch3d_T"],
        "focal_length": told["focal_length_ndc_isotropic"],
        "principal_point": told["principal_point_ndc_isotropic"],
    }
    height, width = told["image_height_width"]
    pose, lens = camera_pose(frame), camera_lens(frame, width, height)
    assert pose == pytest.approx(np.array(told["opencv_extrinsic_3x4"]), abs=1e-12)
    assert lens == pytest.approx(np.array(told["opencv_K"]), abs=1e-9)
    seen = np.array(told["test_world_points"]) @ pose[:, :3].T + pose[:, 3]
    assert seen == pytest.approx(np.array(told["test_camera_points"]), abs=1e-9)
    pixels = seen @ lens.T
    assert pixels[:, :2] / pixels[:, 2:] == pytest.approx(np.array(told["test_pixels"]), abs=1e-9)


def test_the_41_published_categories_and_the_10_others() -> None:
    assert (len(CATEGORIES), len(OTHERS), len({*CATEGORIES, *OTHERS})) == (41, 10, 51)
    assert list(CATEGORIES) == sorted(CATEGORIES)


def rewrite(file: Path, change) -> None:  # type: ignore[no-untyped-def]
    told = json.loads(gzip.decompress(file.read_bytes()))
    file.write_bytes(gzip.compress(json.dumps(change(told)).encode()))


def test_broken_and_absent_sequences_have_no_frames_and_take_no_numbers(tmp_path: Path) -> None:
    root = write_mini("co3d", tmp_path, scenes=3, frames=4)
    draw = RandomFrames(2)
    before = dict(draw.of(open_dataset("co3d", root)))

    def add(told: dict) -> dict:
        frames = told["110_13051_23361"]
        far = [{**frame, "T": [0, 2e5, 0]} for frame in frames]
        return {"000_1_1": frames, **told, "001_far_1": far}

    rewrite(root / "apple_test.jgz", add)
    dataset = open_dataset("co3d", root)
    assert dataset.scenes()[:2] == ["apple/000_1_1", "apple/110_13051_23361"]
    assert dataset.frames("apple/000_1_1") == dataset.frames("apple/001_far_1") == ()
    assert dict(draw.of(dataset)) == before
    lacking = dataset.missing()
    assert "apple/000_1_1: no apple/000_1_1/images" in lacking
    assert "category backpack: no backpack_test.jgz" in lacking


def test_annotations_may_lie_in_a_folder_of_their_own(tmp_path: Path) -> None:
    root = write_mini("co3d", tmp_path, scenes=1)
    (root / "annotations").mkdir()
    (root / "apple_test.jgz").rename(root / "annotations" / "apple_test.jgz")
    assert open_dataset("co3d", root).scenes() == ["apple/110_13051_23361"]


def test_official_annotations_give_the_same_as_those_of_the_evaluation(tmp_path: Path) -> None:
    root = write_mini("co3d", tmp_path, scenes=2, frames=4)
    dataset = open_dataset("co3d", root)
    wanted = [dataset.clip(scene, range(3, -1, -1), Picture(28)) for scene in dataset.scenes()]
    told = json.loads(gzip.decompress((root / "apple_test.jgz").read_bytes()))
    write_official(root / "apple", told, (MINIS["co3d"].height, MINIS["co3d"].width))
    (root / "apple_test.jgz").unlink()
    again = open_dataset("co3d", root)
    assert again.scenes() == dataset.scenes()
    for scene, clip in zip(again.scenes(), wanted, strict=True):  # listed backwards
        found = again.clip(scene, range(4), Picture(28))
        assert found.names == clip.names
        assert found.images.equal(clip.images)
        assert found.truth.extrinsics.equal(clip.truth.extrinsics)
        assert found.truth.intrinsics.numpy() == pytest.approx(clip.truth.intrinsics.numpy(), rel=1e-6)


def write_official(folder: Path, told: dict, size: tuple[int, int]) -> None:
    """CO3D's own files of a category: with a badly scored sequence, intrinsics of the older form in every other frame,
    and the list backwards."""
    height, width = size
    units = np.array([width, height]) / min(width, height)
    frames, listed = [], []
    for sequence, entries in {**told, "bad_1_1": told["110_13051_23361"]}.items():
        for number, entry in enumerate(entries):
            older = number % 2
            scale = 1 / units if older else np.ones(2)
            viewpoint = {
                "R": entry["R"],
                "T": entry["T"],
                "focal_length": (np.array(entry["focal_length"]) * scale).tolist(),
                "principal_point": (np.array(entry["principal_point"]) * scale).tolist(),
                "intrinsics_format": "ndc_norm_image_bounds" if older else "ndc_isotropic",
            }
            image = {"path": entry["filepath"], "size": [height, width]}
            frames.append({"sequence_name": sequence, "frame_number": number, "image": image, "viewpoint": viewpoint})
        listed += [[sequence, number, entries[number]["filepath"]] for number in reversed(range(len(entries)))]
    scores = [{"sequence_name": name, "viewpoint_quality_score": 0.9} for name in told]
    scores += [{"sequence_name": "bad_1_1", "viewpoint_quality_score": 0.5}]
    for name, value in (("frame", frames), ("sequence", scores)):
        (folder / f"{name}_annotations.jgz").write_bytes(gzip.compress(json.dumps(value).encode()))
    (folder / "set_lists").mkdir()
    (folder / "set_lists/set_lists_fewview_dev.json").write_text(json.dumps({"test": listed, "train": [], "val": []}))


def test_the_train_split_has_annotations_of_its_own(tmp_path: Path) -> None:
    root = write_mini("co3d", tmp_path, scenes=1, frames=3)
    told = json.loads(gzip.decompress((root / "apple_test.jgz").read_bytes()))
    train = {name: frames[:2] for name, frames in told.items()}
    (root / "apple_train.jgz").write_bytes(gzip.compress(json.dumps(train).encode()))
    dataset = open_dataset("co3d", root)
    (scene,) = dataset.scenes("train")
    assert (len(dataset.frames(scene)), dataset.category(scene)) == (2, "apple")
    assert len(dataset.frames(dataset.scenes()[0])) == 3


def test_annotations_that_point_elsewhere_are_refused(tmp_path: Path) -> None:
    root = write_mini("co3d", tmp_path, scenes=1)

    def outside(told: dict) -> dict:
        return {name: [{**frame, "filepath": "../../secret.jpg"} for frame in frames] for name, frames in told.items()}

    rewrite(root / "apple_test.jgz", outside)
    dataset = open_dataset("co3d", root)
    with pytest.raises(InputError, match="lies outside"):
        dataset.clip("apple/110_13051_23361", [0], Picture(28))
    rewrite(root / "apple_test.jgz", lambda told: {name: [{"filepath": "a"}] for name in told})
    with pytest.raises(InputError, match=r"apple_test\.jgz: KeyError: 'R'"):
        open_dataset("co3d", root)
