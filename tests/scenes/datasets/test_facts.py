"""What is peculiar to one dataset or another."""

from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from dataset_minis import MINIS, millimetres, save_png, write_mini
from quantvggt.core.errors import InputError
from quantvggt.scenes.datasets import Picture, open_dataset
from quantvggt.scenes.datasets.seven_scenes import DEPTH_TO_COLOUR, register
from quantvggt.scenes.datasets.tum import nearest

GOLDEN = Path(__file__).parents[2] / "golden/datasets/sevenscenes_depth_registration_clean.npz"
pytestmark = pytest.mark.filterwarnings("ignore:dataset .* is not complete")
WHOLE = Picture(84, "stretch", 70)


def test_7scenes_depth_is_registered_as_the_published_script_does_without_missing_pixels() -> None:
    told = dict(np.load(GOLDEN, allow_pickle=False))
    raw, wanted = np.zeros((480, 640), np.uint16), np.zeros((480, 640), np.int64)
    raw[told["raw_row"], told["raw_col"]] = told["raw_mm"]
    assert (raw == 65535).sum() == 600
    wanted[told["out_row"], told["out_col"]] = told["out_mm"]
    assert np.array_equal(register(raw), wanted)
    assert pytest.approx(told["depth_to_color"], abs=1e-9) == DEPTH_TO_COLOUR


def test_7scenes_registered_depth_is_read_where_it_is_and_far_depth_is_none(tmp_path: Path) -> None:
    root = write_mini("7scenes", tmp_path, scenes=1)
    depth = MINIS["7scenes"].scene(0, 4).depth[0]
    values = millimetres(depth)
    values[:40] = 10_001
    save_png(root / "chess/seq-03/frame-000000.depth.proj.png", values)
    dataset = open_dataset("7scenes", root)
    found = dataset.clip("chess/seq-03", [0], WHOLE).truth.depth[0].numpy()
    assert not found[:38].any()
    assert set(np.round(found[40:] * 1000).astype(int).flat) <= {0, *values[40:].flat}
    assert (dataset.category("chess/seq-03"), len(dataset.missing())) == ("chess", 18)
    assert dataset.missing()[0] == "chess/seq-03: 4 of 1000 frames"


def test_published_loaders_of_nrgbd_take_centres_for_whole_numbers(tmp_path: Path) -> None:
    dataset = open_dataset("nrgbd", write_mini("nrgbd", tmp_path, scenes=1))
    ours = dataset.clip("breakfast_room", [0], Picture(42, "stretch", 28)).truth.intrinsics[0]
    published = dataset.clip("breakfast_room", [0], Picture(42, "uniform", 28)).truth.intrinsics[0]
    assert ours[:2, 2].tolist() == [21, 14]
    assert published[0, 2].item() == pytest.approx(48.5 * 28 / 72)
    assert published[0, 0].item() == pytest.approx(MINIS["nrgbd"].lens[0] * 28 / 72)


def test_dtu_counts_the_eroded_mask(tmp_path: Path) -> None:
    root = write_mini("dtu", tmp_path, scenes=1)
    mask = np.zeros((72, 96), bool)
    mask[10:60, 20:90] = True
    save_png(root / "scan1/binary_masks/00000001.png", (mask * 255).astype(np.uint8))
    clip = open_dataset("dtu", root).clip("scan1", [1], Picture(98, "stretch", 70))
    # OpenCV's erosion by a 10x10 box: the minimum of five pixels before to four after, of those within the picture
    eroded = binary_erosion(np.pad(mask, 5, mode="edge"), np.ones((10, 10)))[5:-5, 5:-5]
    assert eroded[15:56, 25:86].all()
    rows = np.floor((np.arange(70) + 0.5) * 72 / 70).astype(int)
    columns = np.floor((np.arange(98) + 0.5) * 96 / 98).astype(int)
    depth = MINIS["dtu"].scene(0, 4).depth[1]
    assert np.array_equal(clip.truth.valid[0], (eroded & (depth > 0))[np.ix_(rows, columns)])
    assert (clip.truth.depth[0].numpy() > 0).sum() > clip.truth.valid[0].sum()  # the rest of the depth is there


def test_dtu_masks_of_another_size_are_resized(tmp_path: Path) -> None:
    root = write_mini("dtu", tmp_path, scenes=1)
    mask = np.zeros((36, 48), np.uint8)
    mask[:18] = 255
    save_png(root / "scan1/binary_masks/00000000.png", mask)
    valid = open_dataset("dtu", root).clip("scan1", [0], Picture(98, "stretch", 70)).truth.valid[0]
    assert not valid[36:].any()
    assert valid[20:30].any()


def test_arrays_that_promise_more_than_they_hold_are_refused(tmp_path: Path) -> None:
    root = write_mini("dtu", tmp_path, scenes=1)
    path = root / "scan1/depths/00000000.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "<f4", "fortran_order": False, "shape": (10_000_000, 10_000_000)}
        )
        file.write(b"short")
    dataset = open_dataset("dtu", root)
    with pytest.raises(InputError, match=r"00000000\.npy"):
        dataset.clip("scan1", [0], WHOLE)
    np.save(path, np.array([[{}]]), allow_pickle=True)
    with pytest.raises(InputError, match=r"00000000\.npy"):
        dataset.clip("scan1", [0], WHOLE)


def test_a_pose_that_is_not_finite_costs_its_frame(tmp_path: Path) -> None:
    root = write_mini("nrgbd", tmp_path, scenes=1)
    path = root / "breakfast_room/poses.txt"
    lines = path.read_text().splitlines()
    lines[4:8] = ["nan nan nan nan"] * 4
    path.write_text("\n".join(lines))
    dataset = open_dataset("nrgbd", root)
    with pytest.warns(UserWarning, match=r"img1.png is left out: its camera isn't finite"):
        clip = dataset.clip("breakfast_room", [0, 1, 2], WHOLE)
    assert clip.names == ["img0.png", "img2.png"]
    with pytest.raises(InputError, match="no frame with a finite camera"), pytest.warns(UserWarning, match="left out"):
        dataset.clip("breakfast_room", [1], WHOLE)


def test_scannet_frames_that_were_not_tracked_are_left_out(tmp_path: Path) -> None:
    root = write_mini("scannet", tmp_path, scenes=1)
    (root / "scene0707_00/pose/2.txt").write_text("-inf -inf -inf -inf\n" * 4)
    with pytest.warns(UserWarning, match="2.jpg is left out"):
        assert len(open_dataset("scannet", root).clip("scene0707_00", range(4), WHOLE).names) == 3


def test_frames_are_in_order_of_their_numbers(tmp_path: Path) -> None:
    """Ten comes after nine, in names that have no leading zeros."""
    dataset = open_dataset("nrgbd", write_mini("nrgbd", tmp_path, scenes=1, frames=11))
    assert dataset.frames("breakfast_room") == [f"img{index}.png" for index in range(11)]


def test_tum_pictures_are_matched_with_the_nearest_pose(tmp_path: Path) -> None:
    root = write_mini("tum", tmp_path, scenes=1)
    dataset = open_dataset("tum", root)
    scene = dataset.scenes()[0]
    assert "rgb/1.000000.png" not in dataset.frames(scene)
    (root / scene / "depth.txt").unlink()
    bare = open_dataset("tum", root).clip(scene, [0, 1], WHOLE)
    assert not bare.truth.depth.any()
    assert bare.truth.extrinsics.equal(dataset.clip(scene, [0, 1], WHOLE).truth.extrinsics)


def test_nearest_in_time() -> None:
    assert nearest(np.array([1.0, 2.0, 3.0]), np.array([3.001, 0.981, 1.019, 2.02, 1.0])) == [4, -1, 0]
    assert nearest(np.array([1.0, 5.0]), np.array([1.01])) == [0, -1]
    assert nearest(np.array([1.0]), np.zeros(0)) == [-1]


def test_re10k_pictures_named_by_timestamps_need_not_be_all(tmp_path: Path) -> None:
    root = write_mini("re10k", tmp_path, scenes=1)
    (name,) = open_dataset("re10k", root).scenes()
    folder = root / "test" / name / "images"
    wanted = open_dataset("re10k", root).clip(name, [0, 2], WHOLE)
    stamps = [line.split()[0] for line in (root / f"test/{name}.txt").read_text().splitlines()[1:]]
    for index, stamp in enumerate(stamps):
        (folder / f"{index:04d}.png").rename(folder / f"{stamp}.png")
    (folder / f"{stamps[1]}.png").unlink()
    clip = open_dataset("re10k", root).clip(name, [0, 1], WHOLE)
    assert clip.truth.extrinsics.equal(wanted.truth.extrinsics)
    assert clip.images.equal(wanted.images)


def test_re10k_pictures_that_belong_to_no_line_are_refused(tmp_path: Path) -> None:
    root = write_mini("re10k", tmp_path, scenes=1)
    (name,) = open_dataset("re10k", root).scenes()
    (root / f"test/{name}/images/0003.png").unlink()
    with pytest.raises(InputError, match=r"it has 4 frames, .* has 3 pictures that aren't named by timestamps"):
        open_dataset("re10k", root).frames(name)


def test_re10k_lists_say_which_videos_in_what_order(tmp_path: Path) -> None:
    root = write_mini("re10k", tmp_path, scenes=3)
    names = open_dataset("re10k", root).scenes()
    (root / "test.list").write_text(f"{names[2]}\n{names[0]}.txt\n")
    assert open_dataset("re10k", root).scenes() == [names[2], names[0]]


def test_eth3d_is_straightened_as_published_where_that_is_asked_for(tmp_path: Path) -> None:
    """Without the tangential and prism terms the picture differs a little, not much."""
    dataset = open_dataset("eth3d", write_mini("eth3d", tmp_path, scenes=1))
    ours = dataset.clip("courtyard", [0], Picture(84, "stretch", 70)).images
    published = dataset.clip("courtyard", [0], Picture(84, "uniform", 70)).images
    assert 0 < (ours - published).abs().mean() < 0.05


def test_a_depth_of_another_size_is_refused(tmp_path: Path) -> None:
    root = write_mini("nrgbd", tmp_path, scenes=1)
    save_png(root / "breakfast_room/depth/depth0.png", np.ones((10, 10), np.uint16))
    with pytest.raises(InputError, match=r"img0\.png has 96x72 pixels, its depth or mask 10x10"):
        open_dataset("nrgbd", root).clip("breakfast_room", [0], WHOLE)


def test_kitti_without_calibration_has_no_lens(tmp_path: Path) -> None:
    root = write_mini("kitti", tmp_path, scenes=1)
    dataset = open_dataset("kitti", root)
    assert dataset.missing() == ["12 of 13 validation drives: no folder val/DRIVE_sync"]
    (root / "2011_09_26/calib_cam_to_cam.txt").unlink()
    clip = dataset.clip(dataset.scenes()[0], [0], Picture(42))
    assert clip.truth.intrinsics.isnan().all()
    assert clip.truth.depth.any()
    with pytest.raises(InputError, match="which this dataset doesn't tell"):
        dataset.clip(dataset.scenes()[0], [0], Picture(42, "crop-resize"))


def test_incomplete_datasets_are_warned_of(tmp_path: Path) -> None:
    root = write_mini("sintel", tmp_path, scenes=2)
    with pytest.warns(UserWarning, match=r"sintel is not complete, so numbers.*ambush_5: no .*training/final/ambush_5"):
        open_dataset("sintel", root)
