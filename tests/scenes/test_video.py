"""Videos to clips: which frames are taken, which way up, and every kind of mistake.

The test videos say their frame's index in grey: frame i is a flat grey of value 5 * i.
"""

import warnings
from pathlib import Path

import av
import numpy as np
import pytest

from quantvggt.core.errors import InputError
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.open import load_clip
from quantvggt.scenes.video import load_video
from videos import write_video


def shown(clip: Clip) -> list[int]:
    """The index that each frame of the clip says it has."""
    return (clip.images.mean((1, 2, 3)) * 255 / 5).round().int().tolist()


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "libx264"),
        ("a.mkv", "libx264"),
        ("a.webm", "libvpx"),
        ("a.avi", "mpeg4"),
        ("a.h264", "libx264"),
    ],
)
def test_frames_are_spaced_evenly_over_the_whole_video(tmp_path: Path, name: str, codec: str) -> None:
    """Also where the container knows neither length nor frame count (mkv, webm) nor time stamps (h264)."""
    write_video(tmp_path / name, 41, codec)
    clip = load_video(tmp_path / name, frames=5, size=28)
    assert shown(clip) == [0, 10, 20, 30, 40]
    assert clip.images.shape == (5, 3, 14, 28)
    assert clip.names == [f"a_{index:06d}" for index in (0, 10, 20, 30, 40)]
    assert [frame["time"] for frame in clip.source["frames"]] == [0, 1, 2, 3, 4]
    assert clip.source["frames"][0]["width"] == 56


def test_frames_by_rate(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 31)  # 10 frames per second, 3 seconds
    assert shown(load_video(tmp_path / "a.mp4", rate=2, size=28)) == [0, 5, 10, 15, 20, 25, 30]
    assert shown(load_video(tmp_path / "a.mp4", rate=100, size=28)) == list(range(31))
    assert shown(load_video(tmp_path / "a.mp4", rate=0.5, size=28)) == [0, 20]
    with pytest.warns(UserWarning, match="single view"):
        assert shown(load_video(tmp_path / "a.mp4", rate=0.1, size=28)) == [0]


def test_default_is_16_frames_and_a_short_video_gives_all_it_has(tmp_path: Path) -> None:
    write_video(tmp_path / "long.mp4", 40)
    write_video(tmp_path / "short.mp4", 4)
    assert len(load_video(tmp_path / "long.mp4", size=28).names) == 16
    with pytest.warns(UserWarning, match="has 4 frames, 16 were asked for"):
        assert shown(load_video(tmp_path / "short.mp4", size=28)) == [0, 1, 2, 3]


def test_reading_twice_gives_the_same_pixels(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 20)
    first, second = (load_clip(tmp_path / "a.mp4", frames=4, size=28).images for _ in range(2))
    assert first.equal(second)


def test_display_rotation_is_applied(tmp_path: Path) -> None:
    """A phone held upright stores frames lying on their side and says in the header how to turn them."""
    write_video(tmp_path / "lying.mp4", 3, left_to_right=True)
    stored = bytearray((tmp_path / "lying.mp4").read_bytes())
    matrix = stored.index(b"tkhd") + 44
    one, minus_one, end = 1 << 16, (-1 << 16) & 0xFFFFFFFF, 1 << 30
    clockwise = [0, one, 0, minus_one, 0, 0, 28 << 16, 0, end]  # x' = -y + 28, y' = x: left goes to the top
    stored[matrix : matrix + 36] = b"".join(value.to_bytes(4, "big") for value in clockwise)
    (tmp_path / "upright.mp4").write_bytes(stored)
    clip = load_video(tmp_path / "upright.mp4", frames=2, size=28, mode="pad")
    frame = clip.source["frames"][0]
    assert (frame["width"], frame["height"]) == (28, 56)
    middle = clip.images[0, 0, :, 14]
    assert middle[:10].max() < 0.1
    assert middle[-10:].min() > 0.9


def test_a_damaged_end_still_gives_the_frames_before_it(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mkv", 41)
    whole = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "cut.mkv").write_bytes(whole[: len(whole) * 2 // 3])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        indices = shown(load_video(tmp_path / "cut.mkv", frames=4, size=28))
    assert indices[0] == 0
    assert indices == sorted(indices)
    assert len(indices) >= 2


def test_what_is_not_a_video(tmp_path: Path) -> None:
    (tmp_path / "text.mp4").write_text("not a video at all\n" * 20)
    (tmp_path / "empty.mp4").touch()
    for name in ("text.mp4", "empty.mp4"):
        with pytest.raises(InputError, match=rf"cannot open .*{name} as a video"):
            load_video(tmp_path / name)
    with pytest.raises(InputError, match="no such video"):
        load_video(tmp_path / "missing.mp4")
    with pytest.raises(InputError, match=r"cannot open .* as a video"):
        load_clip(tmp_path / "text.mp4")


def test_a_file_without_video_or_without_frames(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), format="s16", layout="mono")
        silence.sample_rate = 8000
        container.mux(stream.encode(silence))
    with pytest.raises(InputError, match="no video stream"):
        load_video(tmp_path / "sound.wav")

    write_video(tmp_path / "none.avi", 0, codec="mpeg4")
    with pytest.raises(InputError, match=r"none\.avi"):
        load_video(tmp_path / "none.avi")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 0}, "at least 1"),
        ({"rate": 0.0}, "positive number of frames per second"),
        ({"rate": float("nan")}, "positive number of frames per second"),
        ({"frames": 3, "rate": 1.0}, "not both"),
        ({"mode": "squash"}, "unknown preprocessing mode"),
        ({"size": 100}, "multiple of 14"),
    ],
)
def test_wrong_arguments(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_video(tmp_path / "a.mp4", **options)
