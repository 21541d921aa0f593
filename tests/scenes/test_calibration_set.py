"""What a calibration source stands for."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from quantvggt.core.errors import InputError
from quantvggt.scenes.calibration import CALIBRATION_SEED, calibration_clips, calibration_pool
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.corruption import KINDS, corrupt
from quantvggt.scenes.recorded import save_set
from quantvggt.scenes.synthetic import HELD_OUT_SEED, make_clip
from videos import write_video


def write_images(folder: Path, count: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(count):
        pixels = np.full((28, 28, 3), index * 10, np.uint8)
        pixels[14:] = 255
        Image.fromarray(pixels).save(folder / f"{index:02d}.png")


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
        write_video(tmp_path / name, 20, lamp=True)
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
    (clip,) = calibration_clips([torch.rand(2, 3, 28, 28)])
    assert len(clip.names) == 2
    with pytest.raises(InputError, match=r"calibration\[0\]"):
        calibration_clips([torch.zeros(2, 28, 28)])
    with pytest.raises(InputError, match="at least one clip"):
        calibration_clips("synthetic", clips=0)


@contextmanager
def told() -> Iterator[list[str]]:
    """What is warned of, whatever was warned of before."""
    words: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield words
    words += [str(warning.message) for warning in caught]


def noisy(value: float) -> Tensor:
    """2 frames of one colour, as a covered lens gives them."""
    return value + torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(0)) / 255


SOUND = torch.rand(2, 3, 28, 28, generator=torch.Generator().manual_seed(1))
COLOURS = torch.tensor([[0.1, 0.9, 0.3], [0.0, 0.0, 1.0]])[:, :, None, None].expand(2, 3, 28, 28)
STILL = SOUND[:1].expand(4, 3, 28, 28)


@pytest.mark.parametrize("clips", [[torch.zeros(2, 3, 28, 28)], [COLOURS, noisy(0.5)]])
def test_a_set_of_flat_colours_is_refused(clips: list[Tensor]) -> None:
    with pytest.raises(InputError, match=f"^the calibration set: every frame of its {len(clips)} clips .frame_0000,"):
        calibration_clips(clips)


def test_some_flat_or_still_clips_are_told_of() -> None:
    with told() as words:
        assert len(calibration_clips([noisy(0), SOUND, COLOURS, STILL])) == 4
    assert words == [
        "the calibration set: 2 of 4 clips (frame_0000, ...) are of one colour and teach nothing; leave them out",
        "the calibration set: 1 of 4 clips (frame_0000, ...) repeat one frame and show no motion; "
        "give clips whose frames are taken from different places",
    ]
    half = torch.cat([SOUND[:1], torch.zeros(1, 3, 28, 28)])
    slightly = torch.cat([SOUND[:1], SOUND[:1] + 3 / 255])
    with told() as words:
        calibration_clips([SOUND, half, slightly, SOUND[:1]])
    assert words == []


def test_files_that_show_nothing(tmp_path: Path) -> None:
    for scene in ("a", "b"):
        write_images(tmp_path / "scenes" / scene, 3)
        (tmp_path / "black" / scene).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (28, 28)).save(tmp_path / "black" / scene / f"{index}.png")
    write_video(tmp_path / "grey.mp4", 12)
    for source in ("black", "black/a", "grey.mp4"):
        with pytest.raises(InputError, match=rf"^the calibration set .*{source}: every frame .* of one colour"):
            calibration_clips(tmp_path / source, clips=2, frames=3, size=28)
    (tmp_path / "black" / "a").rename(tmp_path / "scenes" / "c")
    with told() as words:
        calibration_clips(tmp_path / "scenes", clips=3, frames=3, size=28)
    assert words == [
        f"the calibration set {tmp_path / 'scenes'}: 1 of 3 clips (0.png, ...) are of one colour and teach nothing; "
        "leave them out"
    ]


def test_a_pool_is_judged_as_it_is_gone_through_and_opened_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[int] = []

    def open_one(*_: object, **__: object) -> Clip:
        opened.append(1)
        return Clip(STILL if len(opened) == 2 else SOUND, ["frame"] * (4 if len(opened) == 2 else 2))

    for scene in ("a", "b", "c"):
        write_images(tmp_path / scene, 3)
    monkeypatch.setattr("quantvggt.scenes.calibration.load_clip", open_one)
    with told() as words:
        pool = calibration_pool(tmp_path, size=28)
        assert opened == []
        assert len(list(pool)) == len(opened) == 3
    assert [word.partition(": ")[2].partition(" (")[0] for word in words] == ["1 of 3 clips"]


def test_synthetic_and_recorded_sets_pass_in_silence(tmp_path: Path) -> None:
    sound = make_clip(1, 3, 28)
    others = [make_clip(seed, 1, 28) for seed in (2, 3)]
    clips = [sound, *(corrupt(sound, kind, others=others) for kind in KINDS)]
    save_set(tmp_path / "set.json", clips, {}, [{} for _ in clips])
    with told() as words:
        calibration_clips("synthetic", clips=3, frames=2, size=28)
        calibration_clips(tmp_path / "set.json")
        calibration_clips(clips)
    assert words == []
