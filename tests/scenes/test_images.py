"""Photos to clips: pixels against plain Pillow, every kind of file, and every kind of mistake."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from quantvggt.core.errors import InputError
from quantvggt.scenes.images import load_images
from quantvggt.scenes.open import load_clip
from quantvggt.scenes.preprocess import MODES


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A smooth colour field with noise: what resizing gets wrong shows."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    waves = np.stack([np.sin(x / 9 + seed), np.cos(y / 7), np.sin((x + y) / 11)], -1)
    noisy = 127 + 90 * waves + rng.normal(0, 20, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def published_pixels(image: Image.Image, mode: str, size: int = 518) -> np.ndarray:
    """The published loader's arithmetic, written down once more with Pillow and NumPy alone: [H, W, 3]."""
    width, height = image.size
    if mode == "crop" or width >= height:
        target = (size, round(height * (size / width) / 14) * 14)
    else:
        target = (round(width * (size / height) / 14) * 14, size)
    pixels = np.asarray(image.resize(target, Image.Resampling.BICUBIC), dtype=np.float32) / np.float32(255)
    if mode == "crop":
        if target[1] > size:
            start = (target[1] - size) // 2
            pixels = pixels[start : start + size]
        return pixels
    canvas = np.ones((size, size, 3), np.float32)
    top, left = (size - target[1]) // 2, (size - target[0]) // 2
    canvas[top : top + target[1], left : left + target[0]] = pixels
    return canvas


def load_quietly(source: object, **options: object) -> torch.Tensor:
    """The images of a clip, where a warning about a single view is expected."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return load_images(source, **options).images  # type: ignore[arg-type]


def channels_last(image: torch.Tensor) -> np.ndarray:
    return image.permute(1, 2, 0).numpy()


@pytest.mark.parametrize("mode", ["crop", "pad"])
@pytest.mark.parametrize("size", [(640, 480), (300, 517), (400, 400), (1000, 333), (301, 207)])
def test_pixels_are_those_of_the_published_loader(tmp_path: Path, mode: str, size: tuple[int, int]) -> None:
    image = picture(*size)
    image.save(tmp_path / "a.png")
    got = load_quietly(tmp_path / "a.png", mode=mode)
    assert got.dtype == torch.float32
    np.testing.assert_array_equal(channels_last(got[0]), published_pixels(image, mode))


def test_mixed_sizes_are_padded_with_white_to_the_largest(tmp_path: Path) -> None:
    wide, tall = picture(140, 80, 1), picture(90, 120, 2)
    wide.save(tmp_path / "a.png")
    tall.save(tmp_path / "b.png")
    with pytest.warns(UserWarning, match="padded with white to 112x112"):
        clip = load_images(tmp_path, size=112)
    height = round(80 * 112 / 140 / 14) * 14
    top = (112 - height) // 2
    got = channels_last(clip.images[0])
    np.testing.assert_array_equal(got[top : top + height], published_pixels(wide, "crop", 112))
    assert (got[:top] == 1).all()
    assert (got[top + height :] == 1).all()
    np.testing.assert_array_equal(channels_last(clip.images[1]), published_pixels(tall, "crop", 112))
    assert clip.source["frames"][0]["offset"] == [0, top]


# Picture, frame and filters of the published code at 504, which has OpenCV's area and cubic interpolation.
LONGEST = [
    ((640, 480), (504, 378), ["box"]),
    ((480, 640), (378, 504), ["box"]),
    ((1920, 1080), (504, 280), ["box", "box"]),
    ((1080, 1920), (280, 504), ["box", "box"]),
    ((504, 376), (504, 378), ["bicubic"]),
    ((300, 200), (504, 336), ["bicubic"]),
    ((512, 512), (504, 504), ["box"]),
    ((1296, 968), (504, 378), ["box", "bicubic"]),
    ((5184, 3456), (504, 336), ["box"]),
    ((504, 364), (504, 364), []),
]


@pytest.mark.parametrize(("size", "frame", "filters"), LONGEST)
def test_the_longest_side_decides(size: tuple[int, int], frame: tuple[int, int], filters: list[str]) -> None:
    plan = MODES["longest"].plan(*size, 504)
    assert plan.window == plan.resizes[-1][0] == frame
    steps = [size, *(target for target, _ in plan.resizes)]
    used = [how.name.lower() for (target, how), before in zip(plan.resizes, steps, strict=False) if target != before]
    assert used == filters


def test_longest_keeps_all_of_a_picture_and_cuts_to_the_smallest(tmp_path: Path) -> None:
    wide, tall = picture(140, 80, 1), picture(90, 120, 2)
    wide.save(tmp_path / "a.png")
    pixels = load_quietly(tmp_path / "a.png", mode="longest", size=112)
    whole = np.asarray(wide.resize((112, 64), Image.Resampling.BOX).resize((112, 70), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(channels_last(pixels[0]), whole / np.float32(255))
    tall.save(tmp_path / "b.png")
    with pytest.warns(UserWarning, match="all are cut to 84x70"):
        clip = load_images(tmp_path, mode="longest", size=112)
    np.testing.assert_array_equal(channels_last(clip.images[0]), whole[:, 14:-14] / np.float32(255))
    assert clip.source["frames"][0]["offset"] == [-14, 0]
    assert clip.source["frames"][1]["offset"] == [0, -21]


def test_area_gives_the_sizes_of_the_published_loader() -> None:
    recorded = json.loads((Path(__file__).parents[1] / "golden/families/pi3/pi3_sizes.json").read_text())
    assert len(recorded["sizes"]) > 10
    for case in recorded["sizes"]:
        plan = MODES["area"].plan(*case["in_w_h"], 518)
        assert plan.resizes == [(tuple(case["out_w_h"]), Image.Resampling.LANCZOS)]
        assert plan.window == tuple(case["out_w_h"])
    for sides in ((5000, 3), (3, 5000)):
        width, height = MODES["area"].plan(*sides, 518).window
        assert min(width, height) == 14
        assert 14 * max(width, height) <= recorded["pixel_limit"]


def test_area_brings_all_frames_to_the_shape_of_the_first(tmp_path: Path) -> None:
    wide, tall = picture(140, 80, 1), picture(90, 120, 2)
    wide.save(tmp_path / "a.png")
    tall.save(tmp_path / "b.png")
    with pytest.warns(UserWarning, match="1 of 2 images differ in shape from the first: they are stretched to its"):
        clip = load_images(tmp_path, mode="area", size=112)
    height, width = clip.images.shape[-2:]
    assert (width, height) == MODES["area"].plan(140, 80, 112).window
    for pixels, image, frame in zip(clip.images, (wide, tall), clip.source["frames"], strict=True):
        expected = np.asarray(image.resize((width, height), Image.Resampling.LANCZOS)) / np.float32(255)
        np.testing.assert_array_equal(channels_last(pixels), expected)
        assert frame["scale"] == [width / image.width, height / image.height]
        assert frame["offset"] == [0, 0]


@pytest.mark.parametrize("mode", MODES)
def test_the_mapping_leads_from_the_original_to_the_clip(tmp_path: Path, mode: str) -> None:
    """A white dot's centre of mass must land where the mapping says."""
    pixels = np.zeros((600, 300, 3), np.uint8)
    pixels[280:300, 100:120] = 255
    Image.fromarray(pixels).save(tmp_path / "a.png")
    with pytest.warns(UserWarning, match="single view"):
        clip = load_images(tmp_path, mode=mode, size=224)
    frame = clip.source["frames"][0]
    left, width = frame["offset"][0], round(frame["width"] * frame["scale"][0])
    light = channels_last(clip.images[0])[..., 0].astype(np.float64)
    light[:, : max(left, 0)] = light[:, max(left, 0) + width :] = 0
    y, x = (np.indices(light.shape) + 0.5).reshape(2, -1) @ light.ravel() / light.sum()
    expected = np.array([110, 290]) * frame["scale"] + frame["offset"]
    # Pillow's box filter takes whole pixels, where areas would be divided.
    np.testing.assert_allclose([x, y], expected, atol=0.1 if mode == "longest" else 0.05)
    assert (frame["width"], frame["height"]) == (300, 600)


def test_a_very_long_picture_keeps_at_least_one_patch(tmp_path: Path) -> None:
    picture(2000, 10).save(tmp_path / "a.png")
    assert load_quietly(tmp_path, size=112).shape == (1, 3, 14, 112)


def test_folder_and_glob_are_read_in_natural_order(tmp_path: Path) -> None:
    for name in ("img10.png", "img2.PNG", "img1.jpg", ".hidden.png", "notes.txt"):
        picture(28, 28).save(tmp_path / name, format="PNG")
    expected = ["img1.jpg", "img2.PNG", "img10.png"]
    assert load_images(tmp_path, size=28).names == expected
    assert load_images(f"{tmp_path}/img*", size=28).names == expected


def test_a_list_keeps_its_order_and_equal_names_are_told_apart(tmp_path: Path) -> None:
    for folder in ("b", "a"):
        (tmp_path / folder).mkdir()
        picture(28, 28).save(tmp_path / folder / "x.png")
    paths = [tmp_path / "b" / "x.png", str(tmp_path / "a" / "x.png")]
    clip = load_images(paths, size=28)
    assert clip.names == ["b/x.png", "a/x.png"]
    assert [frame["path"] for frame in clip.source["frames"]] == [str(path) for path in paths]
    assert len(set(load_images([paths[0], paths[0]], size=28).names)) == 2


def test_orientation_tag_is_applied(tmp_path: Path) -> None:
    image = picture(84, 56)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held turned: rotate 90 degrees clockwise to show
    image.save(tmp_path / "a.png", exif=exif)
    upright = image.transpose(Image.Transpose.ROTATE_270)
    got = load_quietly(tmp_path / "a.png", size=112)
    np.testing.assert_array_equal(channels_last(got[0]), published_pixels(upright, "crop", 112))


def test_transparency_becomes_white(tmp_path: Path) -> None:
    pixels = np.full((28, 28, 4), (200, 0, 0, 255), np.uint8)
    pixels[:, 14:, 3] = 0
    pixels[:, :7, 3] = 128
    Image.fromarray(pixels).save(tmp_path / "rgba.png")
    got = load_quietly(tmp_path / "rgba.png", size=28)[0]
    np.testing.assert_allclose(got[:, 14, 26], [1, 1, 1], atol=1e-3)
    np.testing.assert_allclose(got[:, 14, 10], [200 / 255, 0, 0], atol=1e-3)
    half = (200 * 128 / 255 + 255 * 127 / 255) / 255
    np.testing.assert_allclose(got[:, 14, 3], [half, 127 / 255, 127 / 255], atol=5e-3)

    palette = Image.new("P", (28, 28), 1)
    palette.putpalette([0, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "p.png")
    palette.save(tmp_path / "p_clear.png", transparency=1)
    assert load_quietly(tmp_path / "p.png", size=28)[0, :, 5, 5].tolist() == [0, 1, 0]
    assert load_quietly(tmp_path / "p_clear.png", size=28)[0, :, 5, 5].tolist() == [1, 1, 1]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_16_bit_greyscale_keeps_its_full_range(tmp_path: Path, suffix: str) -> None:
    ramp = np.tile(np.linspace(0, 65535, 28).astype(np.uint16), (28, 1))
    Image.fromarray(ramp).save(tmp_path / f"a.{suffix}")
    got = load_quietly(tmp_path / f"a.{suffix}", size=28)[0]
    np.testing.assert_allclose(got[0], ramp / 65535, atol=0.5 / 255 + 1e-6)
    assert torch.equal(got[0], got[1])
    assert torch.equal(got[0], got[2])


@pytest.mark.parametrize(("full", "dtype"), [(1.0, np.float32), (65535, np.int32)])
def test_deep_greyscale_tiff(tmp_path: Path, full: float, dtype: type) -> None:
    ramp = np.tile(np.linspace(0, full, 28).astype(dtype), (28, 1))
    Image.fromarray(ramp).save(tmp_path / "a.tiff")
    got = load_quietly(tmp_path / "a.tiff", size=28)[0, 0]
    np.testing.assert_allclose(got, ramp / full, atol=0.5 / 255 + 1e-5)


def test_greyscale_and_cmyk(tmp_path: Path) -> None:
    Image.new("L", (28, 28), 51).save(tmp_path / "grey.bmp")
    Image.new("CMYK", (28, 28), (0, 255, 255, 0)).save(tmp_path / "print.jpg", quality=95)
    assert torch.allclose(load_quietly(tmp_path / "grey.bmp", size=28), torch.tensor(0.2), atol=1e-6)
    red = load_quietly(tmp_path / "print.jpg", size=28)[0, :, 14, 14]
    np.testing.assert_allclose(red, [1, 0, 0], atol=0.03)


def test_load_clip_takes_evenly_spaced_images(tmp_path: Path) -> None:
    for index in range(9):
        picture(28, 28).save(tmp_path / f"{index}.png")
    assert load_clip(tmp_path, frames=3, size=28).names == ["0.png", "4.png", "8.png"]
    assert len(load_clip(tmp_path, size=28).names) == 9
    with pytest.raises(InputError, match="rate needs a video"):
        load_clip(tmp_path, rate=2.0)
    with pytest.raises(InputError, match="at least 1"):
        load_clip(tmp_path, frames=0)


def test_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such image or folder.*missing"):
        load_images(tmp_path / "missing")
    with pytest.raises(InputError, match="no images in folder"):
        load_images(tmp_path)
    with pytest.raises(InputError, match="no images in pattern"):
        load_images(f"{tmp_path}/*.jpg")
    with pytest.raises(InputError, match="list of images is empty"):
        load_images([])
    with pytest.raises(InputError, match="is a folder inside a list"):
        load_images([tmp_path])


def test_an_unreadable_image_is_named(tmp_path: Path) -> None:
    picture(200, 200).save(tmp_path / "good.png")
    whole = (tmp_path / "good.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.jpg").write_text("not a photo")
    Image.fromarray(np.full((28, 28), -5, np.int32)).save(tmp_path / "negative.tif")
    for name in ("cut.png", "text.jpg", "negative.tif"):
        with pytest.raises(InputError, match=rf"cannot read image .*{name}"):
            load_images([tmp_path / "good.png", tmp_path / name], size=28)


def test_wrong_mode_and_size(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="unknown preprocessing mode 'stretch'"):
        load_images(tmp_path, mode="stretch")
    for size in (500, 0, -14):
        with pytest.raises(InputError, match="not a positive multiple of 14"):
            load_images(tmp_path, size=size)


def test_a_single_image_is_allowed_with_a_note(tmp_path: Path) -> None:
    picture(28, 28).save(tmp_path / "only.png")
    with pytest.warns(UserWarning, match="only.png gives a single view"):
        assert len(load_images(tmp_path, size=28).names) == 1


def halves(width: int, height: int, clear: tuple[int, int, int, int]) -> Image.Image:
    image = picture(width, height).convert("RGBA")
    image.paste((0, 0, 0, 0), clear)
    return image


@pytest.mark.parametrize("mode", ["crop", "pad"])
def test_what_is_transparent_is_not_shown(tmp_path: Path, mode: str) -> None:
    """Through resizing, cropping and padding, and beside an opaque picture of another shape."""
    halves(112, 56, (0, 0, 56, 56)).save(tmp_path / "a.png")
    halves(56, 112, (0, 0, 56, 56)).save(tmp_path / "b.png")
    picture(112, 56).save(tmp_path / "c.png")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clip = load_images(tmp_path, mode=mode, size=56)
    assert clip.shown is not None
    assert clip.shown.shape == (3, 56, 56)
    wide, tall, opaque = (shown.numpy() for shown in clip.shown)
    expected = np.zeros((56, 56), bool)
    expected[14:42, 28:] = True
    np.testing.assert_array_equal(wide, expected)
    expected[14:42] = True
    np.testing.assert_array_equal(opaque, expected)
    below = np.zeros((56, 56), bool)
    below[28:, slice(14, 42) if mode == "pad" else slice(None)] = True  # cropped: rows 28 to 84 of 112
    np.testing.assert_array_equal(tall, below)
    assert (clip.images.permute(0, 2, 3, 1)[~clip.shown] > 0.9).all()  # white, but for bicubic ringing at the edge


def test_opaque_sets_show_everything(tmp_path: Path) -> None:
    picture(56, 28).save(tmp_path / "a.png")
    picture(56, 28).convert("RGBA").save(tmp_path / "b.png")
    assert load_images(tmp_path, size=56).shown is None


def test_portraits_are_not_cut_in_silence(tmp_path: Path) -> None:
    for index in range(3):
        picture(300, 400, index).save(tmp_path / f"{index}.png")
    picture(400, 300).save(tmp_path / "wide.png")
    with pytest.warns(
        UserWarning, match="3 of 4 pictures are taller than wide: crop mode cuts up to 27% of their rows"
    ) as told:
        load_images(tmp_path, size=112)
    assert sum("--mode pad" in str(warning.message) for warning in told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "the images differ")
        load_images(tmp_path, mode="pad", size=112)
        load_images([tmp_path / "wide.png", tmp_path / "wide.png"], size=112)


def test_unreadable_files_can_be_left_out(tmp_path: Path) -> None:
    for index in range(3):
        picture(56, 28, index).save(tmp_path / f"{index}.png")
    (tmp_path / "1.jpg").write_text("no photo")
    (tmp_path / "0.jpg").touch()
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(InputError, match=r"cannot read image .*0\.jpg: it is empty; replace it or leave it out"):
        load_images(tmp_path, size=56)
    with pytest.warns(
        UserWarning, match=r"3 of 6 images are left out: .*0\.jpg: it is empty; .*1\.jpg.*; .*gone\.png"
    ) as told:
        clip = load_images(tmp_path, size=56, skip_unreadable=True)
    assert len(told) == 1
    assert clip.names == ["0.png", "1.png", "2.png"]
    listed = [tmp_path / "0.png", tmp_path / "missing.png", tmp_path / "2.png"]
    with pytest.warns(UserWarning, match="1 of 3 images are left out: no such image"):
        assert load_clip(listed, size=56, skip_unreadable=True).names == ["0.png", "2.png"]
    with pytest.raises(InputError, match=r"none of 2 images can be read; the first: .*1\.jpg"):
        load_images([tmp_path / "1.jpg", tmp_path / "0.jpg"], skip_unreadable=True)


def test_what_pillow_thinks_of_metadata_is_not_told(tmp_path: Path) -> None:
    picture(56, 28).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0\x12\x01")
    picture(56, 28).save(tmp_path / "b.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_clip(tmp_path, size=56)
        warnings.filterwarnings("ignore", ".*single view")
        load_clip(tmp_path / "a.jpg", size=56)


def test_every_so_many_images(tmp_path: Path) -> None:
    for index in range(7):
        picture(28, 28).save(tmp_path / f"{index}.png")
    assert load_clip(tmp_path, every=3, size=28).names == ["0.png", "3.png", "6.png"]
    with pytest.raises(InputError, match="not both"):
        load_clip(tmp_path, every=3, frames=2)


def test_a_picture_that_is_transparent_everywhere(tmp_path: Path) -> None:
    Image.new("RGBA", (56, 28), (9, 9, 9, 0)).save(tmp_path / "0.png")
    picture(56, 28).save(tmp_path / "1.png")
    shown = load_images(tmp_path, size=56).shown
    assert shown is not None
    assert shown.flatten(1).any(1).tolist() == [False, True]


def test_an_empty_name() -> None:
    with pytest.raises(InputError, match="name of the images is empty"):
        load_clip("")
