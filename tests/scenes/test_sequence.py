"""Frames one at a time are the frames that a clip has."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.open import load_clip, open_frames
from quantvggt.scenes.picture import read_image, upright_size
from quantvggt.scenes.sequence import ClipFrames, Frames
from quantvggt.scenes.synthetic import make_clip
from videos import write_video


def photos(folder: Path, sizes: list[tuple[int, int]]) -> Path:
    folder.mkdir()
    for index, (width, height) in enumerate(sizes):
        values = np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(values).save(folder / f"{index}.png")
    return folder


def assert_same(frames: Frames, clip: Clip) -> None:
    found = frames.clip(list(frames))
    assert frames.count == len(clip.names)
    assert frames.size == tuple(clip.images.shape[2:])
    assert found.names == clip.names
    assert found.source == clip.source
    assert torch.equal(found.images, clip.images)
    assert (found.shown is None) == (clip.shown is None)
    assert torch.equal(frames.load().images, clip.images)


@pytest.mark.parametrize("mode", ["crop", "pad", "longest", "area"])
@pytest.mark.filterwarnings("ignore:.* differ in shape", "ignore:.* taller than wide")
def test_photos_of_different_shapes(tmp_path: Path, mode: str) -> None:
    folder = photos(tmp_path / "photos", [(80, 60), (60, 80), (90, 60), (80, 60), (80, 60)])
    assert_same(open_frames(folder, mode=mode, size=56), load_clip(folder, mode=mode, size=56))


def test_some_photos(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", [(80, 60)] * 9)
    assert_same(open_frames(folder, frames=4, size=56), load_clip(folder, frames=4, size=56))
    assert_same(open_frames(folder, every=2, size=56), load_clip(folder, every=2, size=56))


def test_the_user_is_told_of_shapes_and_cuts(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", [(80, 60), (60, 120)])
    with pytest.warns(UserWarning, match="differ in shape"), pytest.warns(UserWarning, match="taller than wide"):
        list(open_frames(folder, size=56))


def test_unreadable_photos(tmp_path: Path) -> None:
    folder = photos(tmp_path / "photos", [(80, 60)] * 4)
    whole = (folder / "2.png").read_bytes()
    (folder / "2.png").write_bytes(whole[: len(whole) // 2])  # the header is good
    with pytest.raises(InputError, match=r"2\.png"):
        list(open_frames(folder, size=56))
    with pytest.warns(UserWarning, match="1 of 4 images are left out"):
        frames = list(open_frames(folder, size=56, skip_unreadable=True))
    assert [frame.name for frame in frames] == ["0.png", "1.png", "3.png"]


def test_a_videos_frames(tmp_path: Path) -> None:
    video = tmp_path / "film.mp4"
    write_video(video, 24)
    for choice in ({"frames": 5}, {"rate": 4.0}, {"every": 7}):
        assert_same(open_frames(video, size=56, **choice), load_clip(video, size=56, **choice))


def test_a_clip_in_memory() -> None:
    clip = make_clip(1, 3, 56)
    frames = ClipFrames(clip)
    part = frames.clip(list(frames)[1:])
    assert part.names == clip.names[1:]
    assert torch.equal(part.images, clip.images[1:])


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_the_size_is_the_upright_pictures(tmp_path: Path, orientation: int) -> None:
    image = Image.new("RGB", (40, 30))
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / "a.jpg", exif=exif)
    assert upright_size(tmp_path / "a.jpg") == read_image(tmp_path / "a.jpg").size
