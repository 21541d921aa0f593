"""Every dataset, read from a miniature of its layout that the renderer wrote: what comes back is what was rendered."""

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from dataset_minis import MINIS, Rendered, write_mini
from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.datasets import DATASETS, Dataset, Every, Picture, open_dataset

NAMES = sorted(MINIS)
WITH_DEPTH = [name for name in NAMES if MINIS[name].depth]
FRAMES = 4
BLANK = 80  # bytes of pictures that only fill a folder


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("minis")
    return {name: write_mini(name, folder, scenes=2, frames=FRAMES) for name in NAMES}


def opened(name: str, root: Path) -> Dataset:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "dataset .* is not complete")
        return open_dataset(name, root)


def test_every_dataset_of_files_has_a_miniature() -> None:
    assert set(DATASETS) - {"synthetic"} == set(MINIS)


@pytest.mark.parametrize("name", NAMES)
def test_names_licences_and_sources_are_said(name: str) -> None:
    kind = DATASETS[name]
    assert kind.name == name
    assert kind.title
    assert kind.licence
    assert kind.source


@pytest.mark.parametrize("name", NAMES)
def test_scenes_and_frames_are_those_written(name: str, roots: dict[str, Path]) -> None:
    dataset = opened(name, roots[name])
    assert [(scene, len(dataset.frames(scene))) for scene in dataset.scenes()] == [
        (scene, FRAMES) for scene in MINIS[name].names[:2]
    ]


@pytest.mark.parametrize("name", NAMES)
def test_cameras_and_depth_are_the_renderers(name: str, roots: dict[str, Path]) -> None:
    """At the size on disk, so that nothing stands between."""
    mini = MINIS[name]
    dataset = opened(name, roots[name])
    for index, scene in enumerate(dataset.scenes()):
        truth = mini.scene(index, FRAMES)
        clip = dataset.clip(scene, range(FRAMES), Picture(mini.width // 14 * 14, "stretch", mini.height // 14 * 14))
        scale = torch.tensor([mini.width // 14 * 14 / mini.width, mini.height // 14 * 14 / mini.height, 1])
        if mini.poses:
            wanted = relative(torch.from_numpy(truth.extrinsics)).numpy()
            wanted[:, :3, 3] *= mini.unit
            assert relative(clip.truth.extrinsics.double()).numpy() == pytest.approx(
                wanted, abs=1e-5 * max(1, mini.unit)
            )
        else:
            assert clip.truth.extrinsics.isnan().all()
        expected = scale[:, None] * torch.from_numpy(mini.truth_lens()).float()
        assert clip.truth.intrinsics.numpy() == pytest.approx(expected.expand(FRAMES, 3, 3).numpy(), rel=1e-5)
        assert [Path(frame["path"]).is_file() for frame in clip.source["frames"]] == [True] * FRAMES
        assert len(set(clip.names)) == FRAMES


@pytest.mark.parametrize("picture", [Picture(70, "crop"), Picture(56, "pad"), Picture(84, "stretch", 42)], ids=str)
@pytest.mark.parametrize("name", WITH_DEPTH)
def test_points_of_all_frames_agree_with_the_rendered_scene(
    name: str, picture: Picture, roots: dict[str, Path]
) -> None:
    """The depth of each pixel, seen from the rendered cameras, is what was rendered there."""
    dataset = opened(name, roots[name])
    scene = dataset.scenes()[1]
    clip, truth = dataset.clip(scene, range(FRAMES), picture), MINIS[name].scene(1, FRAMES)
    share, error = agreement(clip, truth, MINIS[name].unit)
    assert share > 0.3  # of the pixels have depth
    assert error < 0.01  # of the depth, at the median


@pytest.mark.parametrize("name", NAMES)
def test_pictures_show_what_the_camera_says(name: str, roots: dict[str, Path]) -> None:
    """Resized pixels are the renderer's own at that size and lens, but for antialiasing and compression."""
    mini, dataset = MINIS[name], opened(name, roots[name])
    clip = dataset.clip(dataset.scenes()[0], range(FRAMES), Picture(70, "stretch", 56))
    again = mini.at_lens(0, FRAMES, clip.truth.intrinsics[0].double().numpy(), 70, 56)
    wanted = torch.from_numpy(again.images).permute(0, 3, 1, 2).float() / 255
    shifted = [(clip.images - wanted.roll(shift, 3)).abs().mean().item() for shift in (0, 1, -1)]
    assert shifted[0] == min(shifted)
    assert shifted[0] < 0.04


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_that_cannot_be_read_is_named(name: str, roots: dict[str, Path], tmp_path: Path) -> None:
    root = tmp_path / name
    shutil.copytree(roots[name], root)
    dataset = opened(name, root)
    scene = dataset.scenes()[0]
    path = Path(dataset.clip(scene, [1], Picture(28)).source["frames"][0]["path"])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=path.name):
        dataset.clip(scene, [1], Picture(28))


@pytest.mark.parametrize("name", NAMES)
def test_damaged_files_are_refused_or_make_no_difference(name: str, tmp_path: Path) -> None:
    """Each file in turn is emptied, cut in half, or garbage: an InputError, or a clip; nothing else."""
    root = write_mini(name, tmp_path, scenes=1, frames=2)
    refused = 0
    for path in sorted(path for path in root.rglob("*") if path.is_file() and path.stat().st_size > BLANK):
        whole = path.read_bytes()
        for damaged in (b"", whole[: len(whole) // 2], b"\0\xff[1e999 nan" * 9):
            path.write_bytes(damaged)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    dataset = open_dataset(name, root)
                    for drawn in Every(1).of(dataset):
                        assert torch.isfinite(dataset.clip(*drawn, Picture(28)).truth.depth).all()
                except InputError:
                    refused += 1
        path.write_bytes(whole)
    assert refused > 4


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_folder_is_refused_with_where_the_data_comes_from(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"dataset {name}: no scene.*given out at"):
        open_dataset(name, tmp_path)
    with pytest.raises(InputError, match=f"dataset {name}: no folder"):
        open_dataset(name, tmp_path / "nowhere")
    with pytest.raises(InputError, match="--root"):
        open_dataset(name)


@pytest.mark.parametrize("name", NAMES)
def test_frames_out_of_range_and_unknown_splits_are_refused(name: str, roots: dict[str, Path]) -> None:
    dataset = opened(name, roots[name])
    with pytest.raises(InputError, match="no frame 4"):
        dataset.clip(dataset.scenes()[0], [4], Picture(28))
    with pytest.raises(InputError, match="no split 'tset'"):
        dataset.scenes("tset")


@pytest.mark.parametrize("name", NAMES)
def test_any_draw_gives_clips(name: str, roots: dict[str, Path]) -> None:
    dataset = opened(name, roots[name])
    drawn = Every(2).of(dataset)
    assert [frames for _, frames in drawn] == [(0, 2)] * 2
    clip = dataset.clip(*drawn[1], Picture(28))
    assert len(clip.images) == 2
    assert isinstance(dataset.category(drawn[1].scene), str)


def relative(extrinsics: torch.Tensor) -> torch.Tensor:
    """Seen from the first camera, float64 [S, 4, 4]."""
    square = torch.eye(4, dtype=torch.float64).repeat(len(extrinsics), 1, 1)
    square[:, :3] = extrinsics
    return square @ square[0].inverse()


def agreement(clip: Clip, truth: Rendered, unit: float) -> tuple[float, float]:
    """Share of pixels with depth; median of the relative distance between a frame's points and the surface that the
    renderer saw from the next frame, for points that it saw."""
    depth, lenses = clip.truth.depth.double().numpy() / unit, clip.truth.intrinsics.double().numpy()
    cameras = relative(clip.truth.extrinsics.double()).numpy()
    cameras[:, :3, 3] /= unit
    if np.isnan(cameras).any():  # a dataset of depth alone
        cameras = relative(torch.from_numpy(truth.extrinsics)).numpy()
    rows, columns = np.indices(depth.shape[1:])
    errors = []
    for frame in range(len(depth)):
        seen = depth[frame] > 0
        lens = lenses[frame]
        x = (columns + 0.5 - lens[0, 2]) / lens[0, 0] * depth[frame]
        y = (rows + 0.5 - lens[1, 2]) / lens[1, 1] * depth[frame]
        points = np.stack([x, y, depth[frame], np.ones_like(x)], -1)[seen] @ np.linalg.inv(cameras[frame]).T
        other = (frame + 1) % len(depth)
        local = points @ relative(torch.from_numpy(truth.extrinsics)).numpy()[other].T
        pixel = local[:, :3] @ truth.lens.T
        u, v = (np.floor(pixel[:, axis] / pixel[:, 2]).astype(int) for axis in (0, 1))
        height, width = truth.depth.shape[1:]
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (local[:, 2] > 0)
        there = truth.depth[other][v[inside], u[inside]]
        ratio = np.abs(there / local[inside, 2] - 1)
        errors.append(ratio[(there > 0) & (ratio < 0.2)])  # what is hidden from the other frame is no error
    return float((depth > 0).mean()), float(np.median(np.concatenate(errors)))
