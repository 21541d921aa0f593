"""Videos as phones, cameras and accidents leave them: damage, pixel shapes, cover art, uneven times, turns, HDR."""

import shutil
import struct
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageFilter

from quantvggt.core.errors import InputError
from quantvggt.scenes.calibration import calibration_clips
from quantvggt.scenes.clip import Clip
from quantvggt.scenes.hdr import HLG, PQ, nits_to_pq
from quantvggt.scenes.open import load_clip
from quantvggt.scenes.recorded import open_set, save_set
from quantvggt.scenes.stream import VideoFile
from quantvggt.scenes.video import load_video, read_frames
from videos import damage_packets, write_frames, write_video


def shown(clip: Clip) -> list[int]:
    """The index that each frame of the clip says it has."""
    return (clip.images.mean((1, 2, 3)) * 255 / 5).round().int().tolist()


def indices(clip: Clip) -> list[int]:
    return [frame["frame"] for frame in clip.source["frames"]]


def grey(value: int) -> np.ndarray:
    return np.full((28, 56, 3), value, np.uint8)


def quietly(path: Path, **options: object) -> Clip:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_video(path, size=28, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("broken", [(10, 11, 12), (5,), (3, 20)])
def test_damaged_packets_cost_their_frames_only(tmp_path: Path, broken: tuple[int, ...]) -> None:
    write_frames(tmp_path / "a.mp4", (grey(5 * index) for index in range(30)), preset="ultrafast")
    damage_packets(tmp_path / "a.mp4", broken)
    with pytest.warns(UserWarning, match=rf"{30 - len(broken)} of 30 frames of .*a\.mp4 are usable") as told:
        clip = load_video(tmp_path / "a.mp4", every=1, size=28)
    assert len(told) == 1
    assert indices(clip) == [index for index in range(30) if index not in broken]
    with pytest.warns(UserWarning, match="of 30 frames"):
        clip = load_video(tmp_path / "a.mp4", frames=5, size=28)
    assert len(clip.names) == 5
    assert not set(indices(clip)) & set(broken)
    assert clip.names == [f"a_{index:06d}" for index in indices(clip)]


@pytest.mark.filterwarnings("ignore:.* frames of .* are usable")
def test_a_recorded_set_of_a_damaged_video_reopens(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 30, lamp=True)
    damage_packets(tmp_path / "a.mp4", (10, 11, 12, 21))
    clips = calibration_clips(tmp_path / "a.mp4", clips=3, frames=4, size=28)
    save_set(tmp_path / "set.json", clips, {}, [{} for _ in clips])
    for clip, opened in zip(clips, open_set(tmp_path / "set.json"), strict=True):
        assert clip.images.equal(opened.images)


def test_damage_where_there_are_no_time_stamps(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.h264", (grey(5 * index) for index in range(30)), preset="ultrafast")
    data = bytearray((tmp_path / "a.h264").read_bytes())
    slices = [
        place for place in range(len(data)) if data[place : place + 4] == b"\0\0\0\1" and data[place + 4] & 31 == 1
    ]
    data[slices[9] + 5 : slices[9] + 9] = b"\0\0\0\0"  # the slice's header
    (tmp_path / "a.h264").write_bytes(data)
    clip = quietly(tmp_path / "a.h264", every=1)
    assert len(clip.names) >= 28
    assert shown(clip)[:8] == list(range(8))


def test_a_video_of_which_nothing_can_be_decoded(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 12)
    damage_packets(tmp_path / "a.mp4", range(12))
    with pytest.raises(InputError, match=r"no frame of .*a\.mp4 can be decoded"):
        load_video(tmp_path / "a.mp4")


def test_files_cut_short(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 255, (28, 56, 3), np.uint8) for _ in range(40)]
    write_frames(tmp_path / "whole.mp4", noise, movflags="faststart")
    data = (tmp_path / "whole.mp4").read_bytes()
    (tmp_path / "index_first.mp4").write_bytes(data[: len(data) * 2 // 3])
    with pytest.warns(UserWarning, match=r"\d+ of 40 frames of .* are usable"):
        clip = load_video(tmp_path / "index_first.mp4", frames=4, size=28)
    assert 20 <= indices(clip)[-1] < 30
    write_frames(tmp_path / "index_last.mp4", noise)
    data = (tmp_path / "index_last.mp4").read_bytes()
    (tmp_path / "index_last.mp4").write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(InputError, match=r"cannot open .*index_last\.mp4 as a video: .*damaged or cut short"):
        load_video(tmp_path / "index_last.mp4")


@pytest.mark.parametrize(
    ("aspect", "rotation", "size"),
    [((4, 3), 0, (75, 28)), ((4, 3), 90, (28, 75)), ((8, 9), 0, (50, 28)), ((1000, 1), 0, (56, 28))],
)
def test_pixels_that_are_not_square(
    tmp_path: Path, aspect: tuple[int, int], rotation: int, size: tuple[int, int]
) -> None:
    write_frames(tmp_path / "a.mp4", [grey(9)] * 3, aspect=aspect, rotation=rotation)
    frame = quietly(tmp_path / "a.mp4", frames=2).source["frames"][0]
    assert (frame["width"], frame["height"]) == size
    assert next(read_frames(tmp_path / "a.mp4", [1])).size == size


def test_the_video_of_the_readme_of_wide_pixels(tmp_path: Path) -> None:
    """96x72 coded with pixels 4:3 wide is a picture of 128x72: a circle in it is round."""
    y, x = np.mgrid[0:72, 0:96] + 0.5
    disc = ((x * 4 / 3 - 64) ** 2 + (y - 36) ** 2 < 25**2) * np.uint8(255)
    write_frames(tmp_path / "a.mp4", [disc[..., None].repeat(3, 2)] * 3, aspect=(4, 3), size=(96, 72), crf="10")
    picture = np.asarray(next(read_frames(tmp_path / "a.mp4", [0])).convert("L")) > 127
    assert picture.shape == (72, 128)
    assert np.ptp(np.nonzero(picture.any(0))[0]) == pytest.approx(np.ptp(np.nonzero(picture.any(1))[0]), abs=2)


@pytest.mark.parametrize("flagged", [False, True])
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_cover_art_in_front_is_no_video(tmp_path: Path, name: str, flagged: bool) -> None:
    with av.open(str(tmp_path / name), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 300, 300, "yuvj420p"
        if flagged:
            cover.disposition = av.stream.Disposition.attached_pic
        stream = container.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 56, 28, "yuv420p"
        frame = av.VideoFrame.from_ndarray(np.full((300, 300, 3), 255, np.uint8), format="rgb24")
        container.mux(cover.encode(frame.reformat(format="yuvj420p")))
        container.mux(cover.encode())
        for index in range(20):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey(5 * index), format="rgb24")))
        container.mux(stream.encode())
    clip = load_video(tmp_path / name, frames=3, size=28)
    assert shown(clip) == [0, 10, 19]


def test_frames_are_spread_over_time_not_over_indices(tmp_path: Path) -> None:
    """A phone that writes 20 frames in the first second and one in each of the next nine."""
    seconds = [0.05 * index for index in range(21)] + [float(second) for second in range(2, 11)]
    write_frames(tmp_path / "a.mp4", [grey(5 * index) for index in range(30)], seconds=seconds)
    clip = load_video(tmp_path / "a.mp4", frames=6, size=28)
    assert [frame["time"] for frame in clip.source["frames"]] == [0, 2, 4, 6, 8, 10]
    assert shown(clip) == indices(clip) == [0, 21, 23, 25, 27, 29]
    assert indices(load_video(tmp_path / "a.mp4", rate=0.5, size=28)) == [0, 21, 23, 25, 27, 29]
    assert indices(load_video(tmp_path / "a.mp4", every=10, size=28)) == [0, 10, 20]


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (1, 0)), (180, (1, 1)), (270, (0, 1))])
def test_quarter_turns(tmp_path: Path, rotation: int, corner: tuple[int, int]) -> None:
    pixels = grey(0)
    pixels[:14, :28] = 255
    write_frames(tmp_path / "a.mp4", [pixels] * 3, rotation=rotation)
    picture = np.asarray(next(read_frames(tmp_path / "a.mp4", [1])))[..., 0]
    height, width = picture.shape
    assert (width, height) == ((56, 28) if rotation in (0, 180) else (28, 56))
    bright = picture.reshape(2, height // 2, 2, width // 2).mean((1, 3)) > 127
    assert bright.sum() == 1
    assert bright[corner]


def test_a_mirrored_display_matrix(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", 3, left_to_right=True)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    place = data.index(b"tkhd") + 44
    data[place : place + 36] = struct.pack(">9i", -(1 << 16), 0, 0, 0, 1 << 16, 0, 56 << 16, 0, 1 << 30)
    (tmp_path / "a.mp4").write_bytes(data)
    picture = np.asarray(next(read_frames(tmp_path / "a.mp4", [0])))
    assert picture[:, :20].min() > 200
    assert picture[:, -20:].max() < 50


def write_raw(path: Path, values: tuple[int, int, int], fmt: str, transfer: int, matrix: int, span: int) -> None:
    """Two frames of one Y, U, V with these tags of ITU-T H.273."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 56, 28, fmt
        stream.codec_context.color_trc, stream.codec_context.color_range = transfer, span
        stream.codec_context.color_primaries = stream.codec_context.colorspace = matrix
        for _ in range(2):
            frame = av.VideoFrame(56, 28, fmt)
            for plane, value in zip(frame.planes, values, strict=True):
                kind = np.uint16 if "10" in fmt else np.uint8
                plane.update(np.full(plane.buffer_size // kind().itemsize, value, kind).tobytes())
            frame.color_trc, frame.color_range, frame.colorspace = transfer, span, matrix
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@pytest.mark.parametrize(
    ("values", "matrix", "span", "expected"),
    [
        ((126, 128, 128), 1, 1, (128, 128, 128)),  # limited range: 16 to 235
        ((235, 128, 128), 1, 1, (255, 255, 255)),
        ((128, 128, 128), 1, 2, (128, 128, 128)),  # full range
        ((63, 102, 240), 1, 1, (255, 0, 0)),  # red by BT.709
        ((81, 90, 240), 6, 1, (255, 0, 0)),  # and by BT.601
    ],
)
def test_range_and_matrix(
    tmp_path: Path, values: tuple[int, int, int], matrix: int, span: int, expected: tuple[int, int, int]
) -> None:
    write_raw(tmp_path / "a.mkv", values, "yuv420p", 1, matrix, span)
    np.testing.assert_allclose(next(read_frames(tmp_path / "a.mkv", [0])).getpixel((9, 9)), expected, atol=3)


def test_hdr_is_not_washed_out(tmp_path: Path) -> None:
    """50 nits lie below the curve's knee: linear light of 50 / 203 of white, which sRGB writes as 136."""
    expected = round(255 * (1.055 * (50 / 203) ** (1 / 2.4) - 0.055))
    write_raw(
        tmp_path / "pq.mkv", (round(64 + 876 * float(nits_to_pq(np.float64(50)))), 512, 512), "yuv420p10le", PQ, 9, 1
    )
    np.testing.assert_allclose(next(read_frames(tmp_path / "pq.mkv", [0])).getpixel((9, 9)), (expected,) * 3, atol=2)
    # HLG: display light 1000 E^1.2 nits of scene light E = 0.0823, which is sqrt(3 E) below a half.
    write_raw(
        tmp_path / "hlg.mkv", (round(64 + 876 * (3 * 0.05 ** (1 / 1.2)) ** 0.5), 512, 512), "yuv420p10le", HLG, 9, 1
    )
    np.testing.assert_allclose(next(read_frames(tmp_path / "hlg.mkv", [0])).getpixel((9, 9)), (expected,) * 3, atol=2)
    # As an ordinary video the same code values would be far too dark or too pale.
    assert load_video(tmp_path / "pq.mkv", frames=2, size=28).images.shape == (2, 3, 14, 28)


def test_transparency_of_a_video(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "a.mov"), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = 56, 28, "rgba"
        pixels = np.zeros((28, 56, 4), np.uint8)
        pixels[:, :28, 3] = 255
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgba")))
        container.mux(stream.encode())
    clip = load_video(tmp_path / "a.mov", frames=2, size=56)
    assert clip.shown is not None
    assert clip.shown[..., :28].all()
    assert not clip.shown[..., 28:].any()
    assert (clip.images[..., 28:] == 1).all()


def blurry_film(path: Path, sharp: set[int], count: int = 60) -> None:
    rng = np.random.default_rng(0)
    board = Image.fromarray(rng.integers(0, 255, (28, 56, 3), np.uint8)).resize((112, 56), Image.Resampling.NEAREST)
    blurred = board.filter(ImageFilter.GaussianBlur(3))
    frames = (np.asarray(board if index in sharp else blurred) for index in range(count))
    write_frames(path, frames, size=(112, 56), crf="12")


def test_sharp_frames_are_taken_and_stay_spread(tmp_path: Path) -> None:
    sharp = {3, 14, 24, 33, 45, 52}
    blurry_film(tmp_path / "a.mp4", sharp)
    assert set(indices(load_video(tmp_path / "a.mp4", frames=6, size=56))) == sharp
    assert indices(load_video(tmp_path / "a.mp4", every=12, size=56)) == [0, 12, 24, 36, 48]
    assert indices(load_video(tmp_path / "a.mp4", rate=1, size=56)) == [0, 10, 20, 30, 40, 50]


def test_two_sharp_neighbours_are_not_both_taken(tmp_path: Path) -> None:
    blurry_film(tmp_path / "a.mp4", {8, 10, 30})
    taken = indices(load_video(tmp_path / "a.mp4", frames=6, size=56))
    assert 8 in taken
    assert 30 in taken
    assert min(np.diff(taken)) >= 0.25 * 59 / 5


def test_long_stretches_are_passed_over_with_the_same_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    board = rng.integers(0, 255, (28, 56, 3), np.uint8)
    write_frames(tmp_path / "a.mp4", (np.roll(board, index, 1) for index in range(400)))
    wanted = [0, 1, 90, 91, 250, 399]
    film = VideoFile(tmp_path / "a.mp4")
    assert [len(run) for _, run in film._runs(wanted)] == [2, 2, 1, 1]
    got = {index: np.asarray(frame.picture().rgb) for index, frame in film.frames(wanted)}
    film._keys = []  # nothing to seek to: everything is decoded
    assert film._runs(wanted) == [(None, wanted)]
    for index, frame in film.frames(wanted):
        np.testing.assert_array_equal(got[index], np.asarray(frame.picture().rgb))
    assert list(got) == wanted
    assert not film.damaged


def test_key_frames_that_lead_nowhere(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.mp4", (grey(index) for index in range(100)))
    film = VideoFile(tmp_path / "a.mp4")
    film._keys = [stamp + 1 for stamp in film._keys]  # seeking then lands behind what is wanted
    assert [index for index, _ in film.frames([0, 42, 84])] == [0, 42, 84]


def test_one_frame_is_held_whatever_the_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import gc
    import weakref

    from quantvggt.scenes import stream

    alive: weakref.WeakSet[object] = weakref.WeakSet()
    most = []

    class Counted(stream.DecodedFrame):
        def __init__(self, *words: object) -> None:
            super().__init__(*words)  # type: ignore[arg-type]
            alive.add(self)
            gc.collect()
            most.append(len(alive))

    monkeypatch.setattr(stream, "DecodedFrame", Counted)
    write_frames(tmp_path / "a.mp4", (grey(index) for index in range(200)))
    load_video(tmp_path / "a.mp4", frames=8, size=28)
    assert max(most) < 8  # of 200: the best so far, the one at hand, and what loops hold


@pytest.mark.parametrize("name", [b"a:b %03d.mp4", b"caf\xe9.mp4", b"two\nlines.mp4", b"no_suffix", b"photo.jpg"])
def test_names_of_videos(tmp_path: Path, name: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    write_video(tmp_path / "a.mp4", 5)
    shutil.move(os.fsencode(tmp_path / "a.mp4"), os.fsencode(tmp_path) + b"/" + name)
    monkeypatch.chdir(tmp_path)
    clip = load_clip(os.fsdecode(name), frames=2, size=28)
    assert shown(clip) == [0, 4]
    assert all(label.isprintable() for label in clip.names)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"frames": 2, "every": 2}, "not both"),
        ({"rate": 1.0, "every": 2}, "not both"),
        ({"every": 0}, "every is 0; give 1"),
    ],
)
def test_choices_that_contradict(tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_video(tmp_path / "a.mp4", **options)
