"""Animated pictures, all formats alike: a film if alone, their first frame in a set of photos."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quantvggt.core.errors import InputError
from quantvggt.scenes.calibration import calibration_clips
from quantvggt.scenes.open import load_clip
from quantvggt.scenes.recorded import save_set
from quantvggt.scenes.video import read_frames

FORMATS = {"a.gif": "GIF", "a.png": "PNG", "a.webp": "WEBP", "a.tif": "TIFF", "a.avif": "AVIF"}


def write_animation(
    path: Path, kind: str, count: int = 5, duration: int = 200, size: tuple[int, int] = (56, 28)
) -> None:
    """Frame i is a grey of 40 + 30 i with a lighter right half."""
    frames = []
    for index in range(count):
        pixels = np.full((size[1], size[0], 3), (40 + 30 * index) % 220, np.uint8)
        pixels[:, size[0] // 2 :] += 20
        frames.append(Image.fromarray(pixels))
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95} if kind in ("MPO", "AVIF") else {}
    timed = {} if kind in ("TIFF", "MPO") else {"duration": duration}
    frames[0].save(path, format=kind, save_all=True, append_images=frames[1:], **options, **timed)


def greys(clip: object) -> list[int]:
    left = clip.images[:, 0, 10, 10] * 255  # type: ignore[attr-defined]
    return [round((value - 40) / 30) for value in left.tolist()]


@pytest.mark.parametrize("name", FORMATS)
def test_alone_it_is_a_film(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    write_animation(file, FORMATS[name])
    step = 0.1 if name == "a.tif" else 0.2  # pages say nothing about time
    for source in (file, tmp_path, [file]):
        clip = load_clip(source, frames=3, size=56)
        assert clip.names == ["a_000000", "a_000002", "a_000004"]
        assert greys(clip) == [0, 2, 4]
        assert [frame["time"] for frame in clip.source["frames"]] == pytest.approx([0, 2 * step, 4 * step])
    assert greys(load_clip(file, every=2, size=56)) == [0, 2, 4]
    assert greys(load_clip(file, rate=1 / step / 2, size=56)) == [0, 2, 4]
    with pytest.warns(UserWarning, match="has 5 frames, 16 were asked for"):
        assert len(load_clip(file, size=56).names) == 5


@pytest.mark.parametrize("name", FORMATS)
def test_among_photos_it_is_its_first_frame_and_said_so(tmp_path: Path, name: str) -> None:
    write_animation(tmp_path / name, FORMATS[name])
    Image.new("RGB", (56, 28), (70, 70, 70)).save(tmp_path / "b.png")
    with pytest.warns(UserWarning, match="1 of 2 images hold several frames: the first of each is used"):
        clip = load_clip(tmp_path, size=56)
    assert clip.names == [name, "b.png"]
    assert greys(clip) == [0, 1]


def test_a_stereo_photo(tmp_path: Path) -> None:
    write_animation(tmp_path / "a.jpg", "MPO", 2)
    assert greys(load_clip(tmp_path / "a.jpg", frames=2, size=56)) == [0, 1]
    Image.new("RGB", (56, 28), (70, 70, 70)).save(tmp_path / "b.png")
    with pytest.warns(UserWarning, match="1 of 2 images hold several frames"):
        assert greys(load_clip(tmp_path, size=56)) == [0, 1]


@pytest.mark.parametrize("kind", ["TIFF", "MPO"])
def test_previews_and_gain_maps_are_no_frames(tmp_path: Path, kind: str) -> None:
    small = Image.new("RGB", (14, 7), (200, 0, 0))
    Image.new("RGB", (56, 28), (40, 40, 40)).save(tmp_path / "a", format=kind, save_all=True, append_images=[small])
    with pytest.warns(UserWarning, match="single view") as told:
        assert greys(load_clip(tmp_path / "a", size=56)) == [0]
    assert len(told) == 1


def test_frames_have_their_own_durations(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (28, 28), (40 + 30 * index,) * 3) for index in range(4)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=[1000, 100, 0, 100])
    clip = load_clip(tmp_path / "a.gif", frames=4, size=28)
    assert [frame["time"] for frame in clip.source["frames"]] == pytest.approx([0, 1, 1.1, 1.2])
    assert load_clip(tmp_path / "a.gif", frames=2, size=28).names == ["a_000000", "a_000003"]


def test_transparency_of_each_frame(tmp_path: Path) -> None:
    frames = []
    for index in range(3):
        frame = Image.new("RGBA", (56, 28), (40, 40, 40, 255))
        frame.paste((0, 0, 0, 0), (0, 0, 14 * (index + 1), 28))
        frames.append(frame)
    frames[0].save(tmp_path / "a.webp", save_all=True, append_images=frames[1:], lossless=True, duration=100)
    clip = load_clip(tmp_path / "a.webp", frames=3, size=56)
    assert clip.shown is not None
    assert [int(shown.sum()) // 28 for shown in clip.shown] == [42, 28, 14]


def test_a_file_cut_short_gives_what_it_has(tmp_path: Path) -> None:
    write_animation(tmp_path / "a.gif", "GIF", 9, size=(280, 140))
    whole = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "cut.gif").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.warns(UserWarning, match=r"of \d+ frames of .*cut\.gif are usable"):
        clip = load_clip(tmp_path / "cut.gif", frames=3, size=56)
    assert greys(clip)[0] == 0
    assert len(clip.names) == 3


def test_recorded_sets_reopen_it(tmp_path: Path) -> None:
    write_animation(tmp_path / "a.gif", "GIF")
    clips = calibration_clips(tmp_path / "a.gif", clips=2, frames=2, size=56)
    save_set(tmp_path / "set.json", clips, {}, [{} for _ in clips])
    for clip, opened in zip(clips, calibration_clips(tmp_path / "set.json"), strict=True):
        assert clip.images.equal(opened.images)
        assert clip.names == opened.names
    assert len(list(read_frames(tmp_path / "a.gif", [1, 3]))) == 2
    with pytest.raises(InputError, match="has 5 frames, frame 5 was asked for"):
        read_frames(tmp_path / "a.gif", [5])
