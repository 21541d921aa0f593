"""What a calibration source stands for."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quantvggt.core.errors import InputError
from quantvggt.scenes.calibration import CALIBRATION_SEED, calibration_clips
from quantvggt.scenes.synthetic import HELD_OUT_SEED
from videos import write_video


def write_images(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        Image.fromarray(np.full((28, 28, 3), index * 10, np.uint8)).save(folder / f"{index:02d}.png")


def first_values(images: torch.Tensor) -> list[int]:
    return (images[:, 0, 0, 0] * 255).round().int().tolist()


def test_one_folder_is_cut_into_interleaved_clips(tmp_path: Path) -> None:
    write_images(tmp_path, 12)
    clips = calibration_clips(tmp_path, clips=3, frames=4, size=28)
    assert [first_values(clip.images) for clip in clips] == [
        [0, 30, 60, 90],
        [10, 40, 70, 100],
        [20, 50, 80, 110],
    ]
    assert [len(clip.source["frames"]) for clip in clips] == [4, 4, 4]


def test_too_few_images_make_one_short_clip(tmp_path: Path) -> None:
    write_images(tmp_path, 3)
    assert [len(clip.names) for clip in calibration_clips(tmp_path, clips=4, frames=8, size=28)] == [3]


def test_a_folder_of_scenes_gives_one_clip_each(tmp_path: Path) -> None:
    for scene in range(5):
        write_images(tmp_path / f"scene{scene}", 4)
    clips = calibration_clips(tmp_path, clips=3, frames=2, size=28)
    assert [len(clip.names) for clip in clips] == [2, 2, 2]


def test_a_video_is_cut_and_a_folder_of_videos_is_one_clip_each(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, 20)
    clips = calibration_clips(tmp_path / "a.mp4", clips=2, frames=3, size=28)
    assert [clip.names for clip in clips] == [
        ["a_000000", "a_000008", "a_000015"],
        ["a_000004", "a_000011", "a_000019"],
    ]
    assert [clip.names[0] for clip in calibration_clips(tmp_path, clips=5, frames=2, size=28)] == [
        "a_000000",
        "b_000000",
    ]


def test_synthetic_scenes_are_neither_trained_on_nor_held_out() -> None:
    clips = calibration_clips("synthetic", clips=2, frames=2, size=28)
    assert [clip.source["seed"] for clip in clips] == [CALIBRATION_SEED, CALIBRATION_SEED + 1]
    assert CALIBRATION_SEED > HELD_OUT_SEED + 100_000


def test_tensors_and_mistakes() -> None:
    (clip,) = calibration_clips([torch.zeros(2, 3, 28, 28)])
    assert len(clip.names) == 2
    with pytest.raises(InputError, match=r"calibration\[0\]"):
        calibration_clips([torch.zeros(2, 28, 28)])
    with pytest.raises(InputError, match="at least one clip"):
        calibration_clips("synthetic", clips=0)
